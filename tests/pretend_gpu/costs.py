"""What an operation costs a GPU: floating point operations by precision, bytes, modelled seconds of one H100."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

MEMORY: Final = 2.4e12
"""Bytes a second that kernels reach on the device's memory."""
LAUNCH: Final = 5e-6
"""Seconds of the smallest kernel."""
RATES: Final = {"bfloat16": 550e12, "float16": 550e12, "tf32": 300e12, "float32": 48e12, "float64": 50e12}
"""Floating point operations a second of matrix products; the others are bound by memory."""
ATTENTION: Final = 350e12
BUS: Final = {"pinned": 50e9, "pageable": 12e9}
"""Bytes a second between host and device."""
HOST_CAST: Final = 8e9
"""Bytes a second that the host reads while it changes a tensor's type."""
ONE_BLOCK: Final = 7e-9
"""Seconds an element of a selection that runs on one multiprocessor: `kthvalue` of a flat tensor."""
FACTORISATION: Final = 5e12
EIGENVALUES: Final = 2e12
"""Operations a second of the decompositions, which are n³/3 and about 9 n³."""

_VIEWS: Final = """view _unsafe_view t transpose permute slice select expand as_strided unsqueeze squeeze
detach alias diagonal unbind split split_with_sizes _reshape_alias lift_fresh unfold unsafe_split chunk
squeeze_ unsqueeze_ t_ transpose_ narrow detach_ view_as_real view_as_complex real imag empty empty_like
empty_strided new_empty new_empty_strided is_same_size sym_size sym_stride sym_numel sym_storage_offset
resize_ set_"""
VIEWS: Final = frozenset(_VIEWS.split())
"""Operations that launch nothing."""
ATTENTION_BACKWARD: Final = "_scaled_dot_product_flash_attention_for_cpu_backward"
SUMS: Final = ("scatter_add", "index_add", "cumsum", "embedding_dense_backward", ATTENTION_BACKWARD)
UNORDERED: Final = frozenset((*SUMS, *(f"{name}_" for name in SUMS)))
"""Sums of floats in whatever order threads arrive, unless deterministic algorithms are asked for."""


def products(name: str, args: Sequence[Any]) -> tuple[int, str]:
    """Floating point operations, and of which precision; 0 for what is no product of matrices."""
    if name in ("addr", "addr_", "mv", "dot"):
        return 0, ""
    match name:
        case "mm":
            left, right = args[:2]
        case "bmm":
            left, right = args[:2]
        case "addmm" | "addmm_" | "baddbmm" | "baddbmm_":
            left, right = args[1:3]
        case _:
            return 0, ""
    return 2 * left.numel() * right.shape[-1], precision(left)


def precision(factor: Tensor) -> str:
    if factor.dtype is torch.float32:
        return "float32" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    return str(factor.dtype).removeprefix("torch.")


def cost(
    name: str, args: Sequence[Any], read: list[Tensor], written: list[Tensor]
) -> tuple[float, str, Counter[str]]:
    """Seconds, what they are spent on, and operations as figures."""
    size = sum(each.numel() * each.element_size() for each in (*read, *written))
    if name == "embedding":
        size = 2 * sum(each.numel() * each.element_size() for each in written)
    memory = max(size / MEMORY, LAUNCH)
    flops, kind = products(name, args)
    if flops:
        return max(flops / RATES.get(kind, RATES["float32"]), memory), kind, Counter({f"flops_{kind}": flops})
    if name.startswith("_scaled_dot_product"):
        flops = attention_flops(name, args)
        return max(flops / ATTENTION, LAUNCH), "attention", Counter({"flops_attention": flops})
    if name == "kthvalue" and read[0].ndim == 1:
        return read[0].numel() * ONE_BLOCK, "selection", Counter()
    if name in ("linalg_cholesky_ex", "cholesky_inverse", "linalg_solve_triangular"):
        return max(_cube(read[0]) / 3 / FACTORISATION, LAUNCH), "decomposition", Counter()
    if name in ("_linalg_eigh", "linalg_eigh"):
        return max(9 * _cube(read[0]) / EIGENVALUES, LAUNCH), "decomposition", Counter()
    return memory, "memory" if memory > LAUNCH else "small", Counter()


def attention_flops(name: str, args: Sequence[Any]) -> int:
    backward = name.endswith("backward")
    query, key = args[1:3] if backward else args[:2]
    place = 7 if backward else 4
    causal = len(args) > place and bool(args[place])  # what is left at its default is not passed
    forward = 4 * query.numel() * key.shape[-2] // (2 if causal else 1)
    return forward * 5 // 2 if backward else forward


def _cube(matrix: Tensor) -> int:
    return math.prod(matrix.shape) * matrix.shape[-1]
