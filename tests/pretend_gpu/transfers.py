"""Copies between host and devices, as `torch/…/cuda/Copy.cu` makes them.

A copy waits for the device unless it was asked not to. One to the host that was asked not to waits all the same
where it goes to pageable memory.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from tests.pretend_gpu import costs, shapes
from tests.pretend_gpu.machine import machine
from tests.pretend_gpu.streams import about_to_copy, copied, launched
from tests.pretend_gpu.tensor import GpuTensor

aten = torch.ops.aten
BETWEEN_DEVICES = 100e9


def to_device(
    source: Tensor, place: torch.device, dtype: torch.dtype | None, *, waits: bool, **options: Any
) -> Tensor:
    """A host's tensor on a device."""
    wanted = dtype or source.dtype
    about_to_copy(source, place, up=True)
    _up(source, wanted, place, waits=waits)
    if machine().shapes:
        made = aten._to_copy.default(source.to("meta"), dtype=wanted, **options)
    else:
        made = aten._to_copy.default(source, dtype=wanted, **options)
    found = GpuTensor(made, place)
    copied(source, found, up=True, waits=waits)
    return found


def to_host(source: GpuTensor, dtype: torch.dtype | None, *, waits: bool, **options: Any) -> Tensor:
    """A device's tensor on the host, in pinned memory where nothing waits for it."""
    wanted = dtype or source.dtype
    _down(source, wanted, pinned=not waits, waits=waits)
    if machine().shapes:
        found = shapes.on_host(source, wanted)
    else:
        found = aten._to_copy.default(source.held, dtype=wanted, **options)
    if not waits:
        mark_pinned(found)
    copied(found, source, up=False, waits=waits)
    return found


def between(source: GpuTensor, place: torch.device, dtype: torch.dtype | None) -> Tensor:
    """A device's tensor on another one."""
    counts = machine().counts
    counts.add("exchanges")
    counts.add("exchanges_bytes", source.nbytes)
    counts.wait(source.nbytes / BETWEEN_DEVICES, "exchange")
    launched(source.place, [source.held], [])
    found = GpuTensor(aten._to_copy.default(source.held, dtype=dtype or source.dtype), place)
    launched(place, [], [found.held])
    return found


def copy_into(target: Tensor, source: Tensor, *, waits: bool) -> Tensor:
    """`copy_` where exactly one of both is on a device, or both are on different ones."""
    real = not machine().shapes
    if isinstance(target, GpuTensor) and isinstance(source, GpuTensor):
        between(source, target.place, None)
        target.held.copy_(source.held)
        launched(target.place, [], [target.held])
    elif isinstance(target, GpuTensor):
        about_to_copy(source, target.place, up=True)
        _up(source, target.dtype, target.place, waits=waits)
        target.held.copy_(source if real else source.to("meta"))
        copied(source, target, up=True, waits=waits)
    else:
        assert isinstance(source, GpuTensor)
        waits = waits or not is_pinned(target)
        about_to_copy(target, source.place, up=False)
        _down(source, target.dtype, pinned=is_pinned(target), waits=waits)
        if real:
            target.copy_(source.held)
        copied(target, source, up=False, waits=waits)
    return target


def pin(tensor: Tensor) -> Tensor:
    """A copy in pinned memory."""
    made = torch.empty_like(tensor, memory_format=torch.contiguous_format) if machine().shapes else tensor.clone()
    mark_pinned(made)
    return made


def mark_pinned(tensor: Tensor) -> None:
    """Memory that a device may read and write by itself."""
    tensor.untyped_storage().__dict__["pinned"] = True


def is_pinned(tensor: Tensor) -> bool:
    return not isinstance(tensor, GpuTensor) and "pinned" in tensor.untyped_storage().__dict__


def _up(source: Tensor, dtype: torch.dtype, place: torch.device, *, waits: bool) -> None:
    """A copy that waits changes the type on the host, before; one that does not, on the device, behind."""
    counts, pinned, sent = machine().counts, is_pinned(source), source.numel() * source.element_size()
    if dtype is not source.dtype and waits:
        counts.add("host_cast_bytes", sent)
        counts.wait(sent / costs.HOST_CAST, "host")
        pinned, sent = False, source.numel() * dtype.itemsize
    elif dtype is not source.dtype:
        counts.launch("_to_copy", place.index, costs.LAUNCH, "memory", Counter())
    _bus("uploads", sent, pinned=pinned, waits=waits)


def _down(source: GpuTensor, dtype: torch.dtype, *, pinned: bool, waits: bool) -> None:
    """A copy that waits changes the type on the host, behind; one that does not, on the device, before."""
    counts, sent = machine().counts, source.numel() * source.element_size()
    if dtype is not source.dtype and waits:
        counts.add("host_cast_bytes", sent)
        counts.wait(sent / costs.HOST_CAST, "host")
    elif dtype is not source.dtype:
        counts.launch("_to_copy", source.place.index, costs.LAUNCH, "memory", Counter())
        sent = source.numel() * dtype.itemsize
    _bus("downloads", sent, pinned=pinned, waits=waits)


def _bus(figure: str, size: int, *, pinned: bool, waits: bool) -> None:
    counts = machine().counts
    counts.add(figure)
    counts.add(f"{figure}_bytes", size)
    if waits:
        counts.add("synchronisations")
    counts.wait(size / costs.BUS["pinned" if pinned else "pageable"], "bus" if waits else "bus beside")
