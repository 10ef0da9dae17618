"""Copies between a GPU and page-locked memory that run beside its computing: each way a stream and two buffers.

The next batch is sent, and the last one fetched, while one is computed with. Only the device waits, for events;
the host goes on. A buffer is written to again when whoever used it is done.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def page_locked(size: int) -> int:
    """Bytes of page-locked memory that so many take: torch gives it out in powers of two."""
    return 1 << (size - 1).bit_length() if size else 0


@dataclass
class Buffer:
    """Bytes for one batch after another. free: when what used them last is done, an event of a GPU; None where
    nothing has."""

    bytes: Tensor
    free: Any = None

    def like(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Its first bytes as a tensor."""
        return self.bytes[: shape.numel() * dtype.itemsize].view(dtype).view(shape)


class Turns:
    """Two buffers that take turns. Each grows to what is asked of it."""

    def __init__(self, make: Callable[[int], Buffer], before_leaving: Callable[[Buffer], None]) -> None:
        """make: a buffer of so many bytes. before_leaving: called with one that is to be given back."""
        self._make, self._before_leaving = make, before_leaving
        self._buffers: list[Buffer] = []

    def next(self, size: int) -> Buffer:
        """The one that was not used last, with `size` bytes at least."""
        if len(self._buffers) < 2:
            self._buffers.append(self._make(size))
            return self._buffers[-1]
        buffer = self._buffers.pop(0)
        if len(buffer.bytes) < size:
            self._before_leaving(buffer)
            buffer = self._make(size)
        self._buffers.append(buffer)
        return buffer

    def clear(self) -> None:
        for buffer in self._buffers:
            self._before_leaving(buffer)
        self._buffers.clear()


@dataclass
class Sent:
    """A batch on its way to the device. tensor: where it arrives. there: the event that it has."""

    tensor: Tensor
    there: Any
    buffer: Buffer


class Transfers:
    """Of one device. Its computing is on the stream that is current when a method is called."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._up, self._down = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
        self._sent, self._fetched = (Turns(self._buffer, self._wait_for_both) for _ in range(2))

    def send(self, source: Tensor, after: Any = None) -> Sent:
        """Begin to copy `source`, in page-locked memory, to the device. after: the event that it is written."""
        buffer = self._sent.next(source.nbytes)
        into = buffer.like(source.shape, source.dtype)
        for event in (buffer.free, after):
            if event is not None:
                self._up.wait_event(event)
        with torch.cuda.stream(self._up):
            into.copy_(source, non_blocking=True)
        return Sent(into, self._up.record_event(), buffer)

    def arrived(self, sent: Sent) -> Tensor:
        """For what is computed from now on. To be used until `done`."""
        self._computing.wait_event(sent.there)
        return sent.tensor

    def done(self, sent: Sent) -> None:
        """Nothing is computed with it from now on."""
        sent.buffer.free = self._computing.record_event()

    def fetch(self, state: Tensor, target: Tensor) -> Any:
        """Begin to copy `state`, on the device, to `target` in page-locked memory; returns the event that it is
        there. `state` may go at once."""
        buffer = self._fetched.next(target.nbytes)
        given = buffer.like(target.shape, target.dtype)
        self._computing.wait_event(buffer.free)
        given.copy_(state)
        self._down.wait_event(self._computing.record_event())
        with torch.cuda.stream(self._down):
            target.copy_(given, non_blocking=True)
        buffer.free = self._down.record_event()
        return buffer.free

    def now(self, source: Tensor, after: Any = None) -> Tensor:
        """A copy of `source` on the device, in its turn of what is computed there."""
        if after is not None:
            self._computing.wait_event(after)
        return source.to(self._device, non_blocking=True)

    def close(self) -> None:
        """Give the buffers back."""
        self._sent.clear()
        self._fetched.clear()

    @property
    def _computing(self) -> Any:
        return torch.cuda.current_stream(self._device)

    def _buffer(self, size: int) -> Buffer:
        # Its memory may have been something else's, which is still computed with.
        found = torch.empty(size, dtype=torch.uint8, device=self._device)
        return Buffer(found, self._computing.record_event())

    def _wait_for_both(self, _: Buffer) -> None:
        """Before a buffer's memory becomes something else's."""
        for stream in (self._up, self._down):
            self._computing.wait_stream(stream)
