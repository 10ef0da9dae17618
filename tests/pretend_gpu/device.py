"""Making torch believe: `torch.cuda` is answered by a pretend machine, in every thread."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.pretend_gpu import streams
from tests.pretend_gpu.attention import attention, can_use_efficient, can_use_flash, is_ours
from tests.pretend_gpu.counts import Counts, start_in, where
from tests.pretend_gpu.dispatch import GpuOperations
from tests.pretend_gpu.machine import Machine, machine, start, stop
from tests.pretend_gpu.tensor import GpuTensor, asked_for, moved
from tests.pretend_gpu.transfers import is_pinned, pin

NAME = "Pretend H100"


@contextmanager
def pretend_gpu(devices: int = 1, *, memory: int = 80 * 2**30, shapes: bool = False) -> Iterator[Counts]:
    """So many devices of `memory` bytes each, while the body runs. Raises Race where streams are not in order."""
    own = Machine(devices, memory, shapes)
    start(own)
    patches = [patch.object(owner, name, new) for owner, name, new in _replaced()]
    try:
        for each in patches:
            each.start()
        with _believing():
            yield own.counts
            gc.collect()  # what refers to itself in a circle is gone when Python gets round to it
        streams.finish()
    finally:
        for each in reversed(patches):
            each.stop()
        stop()


class GpuFunctions(TorchFunctionMode):
    """What C++ would answer for the CPU before any operation is dispatched."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.to:
            return moved(*args, **kwargs)
        if func is torch.Tensor.cpu:
            return moved(args[0], "cpu")
        if func is torch.Tensor.cuda:
            return moved(args[0], *(args[1:2] or ["cuda"]))
        if func is torch.Tensor.pin_memory:
            return pin(args[0])
        if func is torch.Tensor.is_pinned:
            return is_pinned(args[0])
        if func in (torch.tensor, torch.as_tensor) and machine().device(kwargs.get("device")) is not None:
            device = kwargs.pop("device")
            return moved(func(*args, **kwargs), device)
        if func is torch.nn.functional.one_hot and isinstance(args[0], GpuTensor):
            return _one_hot(*args, **kwargs)
        if func is torch.nn.functional.scaled_dot_product_attention and is_ours(args, kwargs):
            return attention(*args, **kwargs)
        if kwargs.get("device") is not None and machine().device(kwargs["device"]) is None:
            with asked_for():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """On CUDA without a look at the values."""
    classes = num_classes if num_classes >= 0 else int(tensor.max()) + 1
    zeros = torch.zeros((*tensor.shape, classes), dtype=torch.int64, device=tensor.device)
    return zeros.scatter_(-1, tensor.unsqueeze(-1), 1)


@contextmanager
def _believing() -> Iterator[None]:
    with GpuFunctions(), GpuOperations():
        yield


def _replaced() -> list[tuple[Any, str, Any]]:
    cuda = torch.cuda
    found = [(cuda, name, new) for name, new in {**_facts(), **_memory(), **_streams()}.items()]
    found += [(torch.autocast, "__init__", _for_cpu(torch.autocast.__init__, 1))]
    names = ("is_autocast_enabled", "get_autocast_dtype", "set_autocast_enabled", "set_autocast_dtype")
    found += [(torch, name, _for_cpu(getattr(torch, name), 0)) for name in names]
    kernels = {"can_use_flash_attention": can_use_flash, "can_use_efficient_attention": can_use_efficient}
    found += [(torch.backends.cuda, name, new) for name, new in kernels.items()]
    found += [(threading.Thread, "start", _in_threads(threading.Thread.start))]
    return found


def _for_cpu(plain: Callable[..., Any], position: int) -> Callable[..., Any]:
    """A function of autocast, asked for a GPU."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("device_type") == "cuda":
            kwargs["device_type"] = "cpu"
        if len(args) > position and args[position] == "cuda":
            args = (*args[:position], "cpu", *args[position + 1 :])
        return plain(*args, **kwargs)

    return call


def _in_threads(plain: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    def start(self: threading.Thread) -> None:
        run, (phase, _) = self.run, where()

        def believing() -> None:
            start_in(phase)
            with _believing():
                run()

        self.run = believing  # type: ignore[method-assign]
        plain(self)

    return start


def _facts() -> dict[str, Any]:
    return {
        "_lazy_init": _begin,
        "init": _begin,
        "is_available": lambda: True,
        "is_initialized": lambda: machine().begun,
        "is_bf16_supported": lambda including_emulation=True: True,
        "device_count": lambda: machine().devices,
        "current_device": lambda: machine().current,
        "set_device": _set_device,
        "device": _Chosen,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": _properties,
        "can_device_access_peer": lambda one, other: True,
    }


def _begin() -> None:
    machine().begun = True


def _set_device(device: Any) -> None:
    machine().current = streams._index(device)


class _Chosen:
    """torch.cuda.device(…)."""

    def __init__(self, device: Any) -> None:
        self.index, self.before = streams._index(device), 0

    def __enter__(self) -> None:
        self.before, machine().current = machine().current, self.index

    def __exit__(self, *_: object) -> None:
        machine().current = self.before


def _properties(device: Any = None) -> SimpleNamespace:
    return SimpleNamespace(
        name=NAME,
        major=9,
        minor=0,
        total_memory=machine().memory,
        multi_processor_count=132,
        uuid=f"GPU-00000000-0000-0000-0000-{streams._index(device):012d}",
        L2_cache_size=50 * 2**20,
    )


def _memory() -> dict[str, Any]:
    live = lambda device=None: machine().counts.live[streams._index(device)]  # noqa: E731
    peak = lambda device=None: machine().counts.peak[streams._index(device)]  # noqa: E731

    def forget_peak(device: Any = None) -> None:
        machine().counts.peak[streams._index(device)] = live(device)

    return {
        "mem_get_info": lambda device=None: (machine().memory - live(device), machine().memory),
        "memory_allocated": live,
        "memory_reserved": live,
        "max_memory_allocated": peak,
        "max_memory_reserved": peak,
        "reset_peak_memory_stats": forget_peak,
        "empty_cache": lambda: None,
    }


def _streams() -> dict[str, Any]:
    names = ("Stream", "Event", "stream", "current_stream", "default_stream", "set_stream", "synchronize")
    return {name: getattr(streams, name) for name in names}
