"""Attention on a GPU: the same bits each time, and never all of a long window's scores at once.

CUDA has three ways. Flash attention takes halves without a mask; the memory-efficient kernel takes float32 and
masks as well (a sliding window's, a bias); what both hold grows with a window's length. What the plain formula
holds grows with its square. Both kernels go backward in one fixed order only where torch is to raise an error for
what has none (`_flash_attention_backward` and `_efficient_attention_backward` look at that), which it then is.
What neither takes, heads of other widths or float64, is computed by the formula piece by piece, and so is the
attention of models that have a formula of their own, with capped scores. cuDNN's attention has no fixed order at
all, and is off for the time of a job.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.backends import cuda
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from worker.pruning.runtime.numerics import as_read

BY_QUERIES: Final = "secateur_by_queries"
"""What transformers knows `_by_queries` by."""
SCORES: Final = 1 << 28
"""That the plain formula has at once: of so many heads, or of so many queries of one head."""


def attention(device: torch.device) -> AbstractContextManager[object]:
    """For forward passes on `device`, also those that are gone back through. On a CPU nothing changes."""
    return GpuAttention() if device.type == "cuda" else nullcontext()


def bound_own_formula(model: Any) -> None:
    """Have a model that computes attention by its own formula do so for some queries at a time, which changes
    nothing else: no query sees another. Models without transformers' interface for it stay as they are."""
    if model.config.get_text_config()._attn_implementation == "eager" and model._supports_attention_backend:
        model.set_attn_implementation(BY_QUERIES)


def _by_queries(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """The own formula of the module's model, (windows, queries, heads, width). query: (windows, heads, …)."""
    formula = sys.modules[type(module).__module__].eager_attention_forward
    windows, heads, queries, _ = query.shape
    rows = max(1, SCORES // (windows * heads * key.shape[2]))

    def piece(start: int) -> Tensor:
        part = slice(start, start + rows)
        of_these = {name: _rows(each, part, queries) for name, each in options.items()}
        mask = _rows(attention_mask, part, queries)
        found: Tensor = formula(module, query[:, :, part], key, value, mask, **of_these)[0]
        return found

    if not torch.is_grad_enabled() or rows >= queries:
        return torch.cat([piece(start) for start in range(0, queries, rows)], dim=1), None
    again = partial(checkpoint, piece, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([again(start) for start in range(0, queries, rows)], dim=1), None


def _rows(value: Any, part: slice, queries: int) -> Any:
    """A mask or a bias for these queries alone; anything else as it is."""
    has = isinstance(value, Tensor) and value.ndim == 4 and value.shape[-2] == queries
    return value[..., part, :] if has else value


AttentionInterface.register(BY_QUERIES, _by_queries)
AttentionMaskInterface.register(BY_QUERIES, eager_mask)


class GpuAttention(TorchFunctionMode):
    """What calls `scaled_dot_product_attention` meanwhile gets it as this module's head says."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As `scaled_dot_product_attention`. query: (windows, heads, queries, width) and so on."""
    query, key, value = (as_read(each) for each in (query, key, value))
    mask = attn_mask if attn_mask is None or attn_mask.dtype is torch.bool else attn_mask.to(query.dtype)
    flash = cuda.can_use_flash_attention(
        cuda.SDPAParams(query, key, value, mask, dropout_p, is_causal, enable_gqa)
    )
    if enable_gqa and not flash:
        times = query.shape[-3] // key.shape[-3]
        key, value, enable_gqa = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3), False
    params = cuda.SDPAParams(query, key, value, mask, dropout_p, is_causal, enable_gqa)
    if not flash and not cuda.can_use_efficient_attention(params):
        return _in_pieces(query, key, value, mask, is_causal, scale)
    found = functional.scaled_dot_product_attention(
        query, key, value, mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    _go_back_strictly(found)
    return found


def _go_back_strictly(found: Tensor) -> None:
    """Have the kernel's backward pass done in a fixed order."""
    before = torch.get_deterministic_debug_mode()
    for node in _kernels(found.grad_fn):
        node.register_prehook(lambda _: torch.set_deterministic_debug_mode("error"))
        node.register_hook(lambda *_: torch.set_deterministic_debug_mode(before))


def _kernels(node: Any) -> Iterator[Any]:
    """The nodes of autograd that are attention's own, up to the nearest: torch may cut or turn what they give."""
    while node is not None and "Attention" not in node.name():
        node = node.next_functions[0][0] if node.next_functions else None
    if node is not None:
        yield node


def _in_pieces(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor:
    """By the plain formula. A piece's scores are computed again on the way back, rather than kept."""
    windows, heads, queries, _ = query.shape
    keys = key.shape[-2]
    if mask is not None:
        mask = mask.expand(windows, heads, queries, keys)
    many, rows = max(1, SCORES // (queries * keys)), max(1, SCORES // keys)

    def piece(window: int, first: int, start: int) -> Tensor:
        own = (slice(window, window + 1), slice(first, first + many))
        part = slice(start, min(start + rows, queries))
        masked = None if mask is None else mask[own][..., part, :]
        given = (query[own][..., part, :], key[own], value[own], masked, part.start if is_causal else None, scale)
        if torch.is_grad_enabled():
            found: Tensor = checkpoint(_formula, *given, use_reentrant=False, preserve_rng_state=False)
            return found
        return _formula(*given)

    def of_window(window: int) -> Tensor:
        found = (
            torch.cat([piece(window, first, start) for start in range(0, queries, rows)], dim=2)
            for first in range(0, heads, many)
        )
        return torch.cat(list(found), dim=1)

    return torch.cat([of_window(window) for window in range(windows)])


def _formula(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, first: int | None, scale: float | None
) -> Tensor:
    """first: which query of the window the first one is, where none sees a key behind itself."""
    if first is not None:
        places = torch.arange(first, first + query.shape[-2], device=query.device)
        mask = places.unsqueeze(1) >= torch.arange(key.shape[-2], device=query.device)
    with sdpa_kernel(SDPBackend.MATH):
        return functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)
