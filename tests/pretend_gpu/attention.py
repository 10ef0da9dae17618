"""Attention as CUDA would choose it: flash, the memory-efficient kernel, or the plain formula."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.backends import cuda

from tests.pretend_gpu.tensor import GpuTensor

HALVES = (torch.bfloat16, torch.float16)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` of a device's tensors. Raises RuntimeError where no kernel is allowed."""
    if torch.is_autocast_enabled("cpu"):  # attention is among what autocast rounds
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    params = cuda.SDPAParams(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (_repeated(each, groups) for each in (key, value))
    if query.ndim == 4 and (can_use_flash(params) or can_use_efficient(params)):
        mask = _added(attn_mask, query) if attn_mask is not None else None
        found: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale
        )[0]
        return found
    if not cuda.math_sdp_enabled():
        raise RuntimeError("No available kernel. Aborting execution.")
    return _formula(query, key, value, attn_mask, is_causal, scale)


def can_use_flash(params: cuda.SDPAParams, debug: bool = False) -> bool:
    """As `torch.backends.cuda` answers on an H100."""
    own = cuda.flash_sdp_enabled() and params.query.dtype in HALVES and params.attn_mask is None
    return own and _alike(params.query, params.key, params.value)


def can_use_efficient(params: cuda.SDPAParams, debug: bool = False) -> bool:
    own = cuda.mem_efficient_sdp_enabled() and params.query.dtype is not torch.float64
    return own and _alike(params.query, params.key, params.value) and not params.enable_gqa


def _alike(query: Tensor, key: Tensor, value: Tensor) -> bool:
    return query.shape[-1] == key.shape[-1] == value.shape[-1] and query.shape[-1] <= 256


def _formula(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor:
    """As `_scaled_dot_product_attention_math` does it on CUDA: halves are widened."""
    dtype = query.dtype
    if dtype in HALVES:
        query, key, value = query.float(), key.float(), value.float()
    root = math.sqrt(scale if scale is not None else 1 / math.sqrt(query.shape[-1]))
    weights = (query * root) @ (key * root).transpose(-2, -1)
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        weights = weights + _added(mask, query)
    return (torch.softmax(weights, -1) @ value).to(dtype)


def _added(mask: Tensor, query: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(query.dtype)
    return torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill(~mask, -math.inf)


def _repeated(tensor: Tensor, times: int) -> Tensor:
    """A kernel with grouped queries reads the same head again; nothing is copied, so nothing is launched."""
    return tensor if times == 1 else tensor.repeat_interleave(times, -3)


def is_ours(args: Any, kwargs: Any) -> bool:
    return isinstance(args[0] if args else kwargs["query"], GpuTensor)
