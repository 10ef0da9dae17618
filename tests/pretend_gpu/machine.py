"""The pretend machine: its devices, what each thread chose of them, and the counts. There is one at a time."""

import threading
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.pretend_gpu.counts import Counts


@dataclass
class Machine:
    """memory: bytes of each device. shapes: whether tensors are shapes alone. chosen: by thread.
    begun: whether anything was on a device yet."""

    devices: int = 1
    memory: int = 80 * 2**30
    shapes: bool = False
    counts: Counts = field(default_factory=Counts)
    chosen: threading.local = field(default_factory=threading.local)
    schedule: Any = None
    begun: bool = False

    @property
    def inner(self) -> torch.device:
        """Where the tensors really are."""
        return torch.device("meta" if self.shapes else "cpu")

    def device(self, wanted: Any) -> torch.device | None:
        """A pretend device with its index, None for any other. Raises what CUDA says of one that is not there."""
        if wanted is None:
            return None
        device = torch.device("cuda", wanted) if isinstance(wanted, int) else torch.device(wanted)
        if device.type != "cuda":
            return None
        index = self.current if device.index is None else device.index
        if index >= self.devices:
            raise torch.AcceleratorError("CUDA error: invalid device ordinal")
        return torch.device("cuda", index)

    @property
    def current(self) -> int:
        return int(getattr(self.chosen, "device", 0))

    @current.setter
    def current(self, index: int) -> None:
        self.chosen.device = index

    def allocate(self, device: torch.device, size: int) -> None:
        self.begun = True
        live = self.counts.live[device.index]
        if live + size > self.memory:
            free, tried = (f"{each / 2**20:.2f} MiB" for each in (self.memory - live, size))
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {tried}. GPU {device.index} has a total capacity of "
                f"{self.memory / 2**30:.2f} GiB of which {free} is free."
            )
        self.counts.allocate(device.index, size)


_now: list[Machine] = []


def machine() -> Machine:
    return _now[-1]


def is_on(one: Machine) -> bool:
    return any(each is one for each in _now)


def start(one: Machine) -> None:
    _now.append(one)


def stop() -> None:
    _now.pop()
