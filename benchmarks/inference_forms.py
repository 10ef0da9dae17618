"""One model in the forms that sparse weights are run in: dense kernels, compressed rows, a GPU's 2:4 kernels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from secateur.spec.sparsity import Pattern
from worker.pruning.methods.masks import follows

Model = Any
"""A causal language model of transformers."""
Kernel = Callable[[Tensor], nn.Module]
"""What multiplies by a weight, (out, in)."""
TWO_FOUR: Final = Pattern(2, 4)


@dataclass(frozen=True)
class Form:
    """name: of zeros and kernels. dense: whose times it is held against. pattern: None for no zeros at all; else
    half of the weights of the blocks' matrices are zero. kernel: None for the dense ones."""

    name: str
    dtype: torch.dtype
    pattern: Pattern | None = None
    kernel: Kernel | None = field(default=None, compare=False)

    @property
    def dense(self) -> str:
        return f"dense, {_word(self.dtype)}"

    @property
    def title(self) -> str:
        return f"{self.name}, {_word(self.dtype)}"


class Rows(nn.Module):
    """A weight in compressed rows (CSR), by PyTorch's own kernel, which is MKL's on an x86 processor."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows = weight.to_sparse_csr()
        indices = (each.to(torch.int32) for each in (rows.crow_indices(), rows.col_indices()))
        self.rows = torch.sparse_csr_tensor(*indices, rows.values(), rows.shape)

    @property
    def bytes(self) -> int:
        parts = (self.rows.crow_indices(), self.rows.col_indices(), self.rows.values())
        return sum(part.numel() * part.element_size() for part in parts)

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        return (self.rows @ flat.T).T.reshape(*inputs.shape[:-1], -1)


class SemiStructured(nn.Module):
    """A 2:4 weight for a GPU's sparse tensor cores, by `torch.sparse`. library: cutlass or cusparselt."""

    def __init__(self, weight: Tensor, library: str) -> None:
        super().__init__()
        kinds: dict[str, Any] = {
            "cutlass": torch.sparse.SparseSemiStructuredTensorCUTLASS,
            "cusparselt": torch.sparse.SparseSemiStructuredTensorCUSPARSELT,
        }
        self.weight = kinds[library].from_dense(weight)

    @property
    def bytes(self) -> int:
        parts = (self.weight.packed, self.weight.meta)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self.weight)


def forms(device: str) -> list[Form]:
    """What is tried on a device, the dense ones first. No CPU has kernels for 2:4: PyTorch says so itself."""
    half, full = torch.bfloat16, torch.float32
    plain = [Form("dense", half), Form("50 %", half, Pattern()), Form("2:4", half, TWO_FOUR)]
    sparse = [
        Form(f"2:4 by {name}", half, TWO_FOUR, partial(SemiStructured, library=name))
        for name in ("cutlass", "cusparselt")
    ]
    if device == "cpu":
        rows = [Form("50 %", full, Pattern()), Form("50 % in rows", full, Pattern(), Rows)]
        return [Form("dense", full), *rows, *plain, sparse[0]]
    return [*plain, *sparse]


def load(folder: Path, form: Form, device: str) -> Model:
    """The model in a form, ready to be run. What a library does not have is its error."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=form.dtype).to(device).eval()
    if form.pattern is not None:
        for parent, name, layer in _layers(model):
            prune(layer.weight, form.pattern)
            if form.kernel is not None:
                setattr(parent, name, form.kernel(layer.weight.detach()))
    return model


def prune(weight: Tensor, pattern: Pattern) -> None:
    """Make half of a weight zero, the smallest ones, in place: kernels do not care which."""
    with torch.no_grad():
        group = pattern.group or weight.numel()
        parts = weight.view(-1, group)
        parts.scatter_(1, parts.abs().float().argsort(dim=1)[:, : group // 2], 0)
    if not follows(weight, pattern):
        raise AssertionError(f"{pattern} was not kept")


def held_bytes(model: Model) -> int:
    """What its weights take in memory; one that is used twice counts once."""
    own = {each.data_ptr(): each.numel() * each.element_size() for each in model.parameters()}
    sparse = [each for each in model.modules() if isinstance(each, Rows | SemiStructured)]
    return sum(own.values()) + sum(each.bytes for each in sparse)


def _layers(model: Model) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The linear layers of the decoder blocks, with where they hang."""
    for parent in list(model.get_decoder().layers.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                yield parent, name, layer


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
