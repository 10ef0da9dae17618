"""What the host reads from a device that has shapes alone: made up, and the same every time."""

from typing import Any

import torch
from torch import Tensor

from tests.pretend_gpu.tensor import GpuTensor


def scalar(tensor: GpuTensor) -> Any:
    """Nothing is wrong anywhere: nothing is true of any, everything of all."""
    if tensor.dtype is torch.bool:
        return tensor.answer != "any"
    return 1.0 if tensor.dtype.is_floating_point else 0


def on_host(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Whole numbers are zero. Large tensors take no memory before they are written to."""
    dtype = dtype or tensor.dtype
    if tensor.numel() < 1000 and dtype.is_floating_point:
        return torch.ones(tensor.shape, dtype=dtype)
    return torch.zeros(tensor.shape, dtype=dtype)


def of_unknown_size(name: str, args: tuple[Any, ...]) -> Tensor:
    """What depends on values is empty."""
    first: Tensor = args[0]
    if name in ("nonzero", "argwhere"):
        return torch.empty((0, first.ndim), dtype=torch.int64, device="meta")
    rest = first.shape[1:] if name == "index" else ()
    return torch.empty((0, *rest), dtype=first.dtype, device="meta")
