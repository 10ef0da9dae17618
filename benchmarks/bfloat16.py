"""Products of float32 matrices as a processor with AMX makes them at torch's precision `medium`, anywhere.

There oneDNN rounds both operands to bfloat16 and sums in float32 (`fpmath_mode=bf16`), for every product on the
CPU of more than 16³ multiplications that torch gives to it: `mm`, `addmm`, `bmm`, `baddbmm`, `mv`, `addmv`, `dot`,
and those inside fused attention. Elsewhere `medium` is plain float32. Here the operands are rounded beforehand,
which gives the same products; sums may differ in their order. Of attention only the inputs are rounded, not what
it computes in between.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

SMALLEST: Final = 16**3
"""Products with no more multiplications are never rounded."""
OPERANDS: Final[dict[str, tuple[int, ...]]] = {
    "mm": (0, 1),
    "bmm": (0, 1),
    "mv": (0, 1),
    "dot": (0, 1),
    "addmm": (1, 2),
    "addmm_": (1, 2),
    "addmv": (1, 2),
    "addmv_": (1, 2),
    "baddbmm": (1, 2),
    "baddbmm_": (1, 2),
    "_scaled_dot_product_flash_attention_for_cpu": (0, 1, 2),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (0, 1, 2, 3),
}
"""By name of the operation: which of its arguments are multiplied."""


@contextmanager
def amx() -> Iterator["MediumInBfloat16"]:
    """This process as on a processor with AMX: bfloat16 is native, and `medium` rounds."""
    yes = {"return_value": True}
    with (
        patch.object(torch.cpu, "_is_amx_tile_supported", **yes),
        patch.object(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", **yes),
        MediumInBfloat16() as rounding,
    ):
        yield rounding


class MediumInBfloat16(TorchDispatchMode):
    """While it is entered, `medium` rounds as on AMX. Products of bfloat16 tensors, which a processor without them
    makes very slowly, go through float32, where they are exact, and only their sums are rounded."""

    rounded = 0
    """How many products were rounded so far."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        places = OPERANDS.get(func._overloadpacket.__name__)
        if places is None:
            return func(*args, **(kwargs or {}))
        operands = [args[place] for place in places]
        if all(_is(each, torch.float32) for each in operands):
            if torch.get_float32_matmul_precision() == "medium" and _size(*operands[:2]) > SMALLEST:
                self.rounded += 1
                args = _with(args, places, lambda each: each.bfloat16().float())
        elif (
            len(places) == 2
            and func._overloadname != "out"
            and all(_is(each, torch.bfloat16) for each in operands)
        ):
            return _through_float32(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _through_float32(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    wide = tuple(each.float() if _is(each, torch.bfloat16) else each for each in args)
    found = func(*wide, **kwargs).bfloat16()
    return args[0].copy_(found) if func._overloadpacket.__name__.endswith("_") else found


def _is(value: Any, dtype: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.dtype is dtype and value.device.type == "cpu"


def _with(args: tuple[Any, ...], places: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    return tuple(change(each) if place in places else each for place, each in enumerate(args))


def _size(one: Tensor, other: Tensor) -> int:
    """Multiplications of a product."""
    return math.prod(one.shape) * (other.shape[-1] if other.ndim > 1 else 1)
