"""Mixtures of experts: which matrix is which part of a layer's experts, and what arrives at each.

transformers keeps a layer's experts in one module with one 3-D parameter a kind of matrix. Every such module that
can change its implementation (the decorator `use_experts_implementation`) has one interface: called with the
tokens, the experts that each token goes to, and their weights; `gate_up_proj` or `up_proj`, then `down_proj`.
Nothing here knows a family by name.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.core_model_loading import Concatenate, MergeModulelist, Transpose

from worker.pruning.errors import UserError
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.weight_names import Names, Part

DOWN = "down_proj"
INTERFACE = ("has_gate", "has_bias", "is_transposed", "has_post_expert_norm")
"""What every such module says of itself."""

Hear = Callable[[str, int, Tensor, Tensor], None]
"""Called with the parameter's name, the expert, its inputs, (tokens, in), and its outputs, (tokens, out)."""


@dataclass(frozen=True)
class Expert:
    """The place of one expert's matrix in its module: some rows, from `first_row`, of `parameter`[`index`]."""

    parameter: str
    index: int
    first_row: int

    @property
    def activated(self) -> bool:
        """Whether it reads the expert's own activations rather than the layer's tokens."""
        return self.parameter == DOWN


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds all experts of a layer, with the interface above."""
    return all(hasattr(module, name) for name in INTERFACE)


def count_experts(module: Any) -> int:
    return len(module.down_proj)


def fused(module: nn.Module) -> dict[str, int]:
    """The module's own parameters that hold several matrices in a form that cannot be pruned: names and sizes."""
    if isinstance(module, nn.modules.conv._ConvNd) or (is_experts(module) and not module.has_post_expert_norm):
        return {}
    own = module.named_parameters(recurse=False)
    return {name: value.numel() for name, value in own if value.squeeze().ndim == 3}


@dataclass(frozen=True)
class StoredExpert:
    """One expert's matrix in the checkpoint: a tensor, or one slice along the first side of a tensor of them all.

    shape: of the matrix as it is stored, (in, out) if transposed, (out, in) otherwise. place: in its module.
    """

    tensor: str
    slice: int | None
    shape: tuple[int, ...]
    transposed: bool
    place: Expert


def find_experts(path: str, module: nn.Module, names: Names, checkpoint: Checkpoint) -> list[StoredExpert]:
    """Every matrix of the experts in `module`, expert by expert.

    path: the module's path in the model. Raises UserError when the checkpoint's tensors are not such matrices.
    """
    found: list[StoredExpert] = []
    for parameter, value in module.named_parameters(recurse=False):
        if value.ndim == 3:
            parts = names.sources(f"{path}.{parameter}")
            steps = parts[0].converter.operations if parts[0].converter else []
            operations = [type(step) for step in steps]
            if operations in ([MergeModulelist], [MergeModulelist, Concatenate]):
                found += _apart(parameter, parts, checkpoint)
            elif operations in ([], [Transpose]):
                same = checkpoint.tensors[parts[0].name].shape == tuple(value.shape)
                turned = any(not (step.check_dims and same) for step in steps)
                found += _together(parameter, parts[0].name, bool(module.is_transposed) != turned, checkpoint)
            else:
                raise _unsupported(f"{parts[0].name} holds all experts of a layer in a form that cannot be pruned")
    return sorted(found, key=lambda each: each.place.index)


def _apart(parameter: str, parts: list[Part], checkpoint: Checkpoint) -> list[StoredExpert]:
    """Of a parameter that is put together from one matrix an expert, or from several."""
    found: list[StoredExpert] = []
    row = 0
    # Of one pattern, the list's order numbers the experts; the patterns' order stacks their rows.
    for pattern in parts[0].converter.source_patterns:
        own = [part.name for part in parts if part.pattern == pattern]
        for index, name in enumerate(own):
            shape = checkpoint.tensors[name].shape
            found.append(StoredExpert(name, None, shape, False, Expert(parameter, index, row)))
        row += checkpoint.tensors[own[0]].shape[0]
    return found


def _together(parameter: str, tensor: str, transposed: bool, checkpoint: Checkpoint) -> list[StoredExpert]:
    """Of a parameter that is stored as it is, or with the sides of every matrix exchanged."""
    experts, *shape = checkpoint.tensors[tensor].shape
    return [
        StoredExpert(tensor, index, tuple(shape), transposed, Expert(parameter, index, 0))
        for index in range(experts)
    ]


def _unsupported(message: str) -> UserError:
    return UserError("unsupported_model", message, "/model")


@contextmanager
def listening(
    modules: dict[str, nn.Module],
    hear: Callable[[str, str, int, Tensor, Tensor], None],
    called: Callable[[str, tuple[Tensor, ...]], None] = lambda key, given: None,
    only: Mapping[str, Collection[int]] | None = None,
) -> Iterator[None]:
    """While inside, `modules` of experts (by any key) tell what each does: hear(key, parameter, expert, x, z).

    called: told what each module was called with. only: see `run_experts`, by key.
    """
    with ExitStack() as stack:
        for key, module in modules.items():

            def forward(*args: Any, _key: str = key, _module: nn.Module = module, **kwargs: Any) -> Tensor:
                # Families call the arguments by names of their own, in one order.
                bound = inspect.signature(type(_module).forward).bind(_module, *args, **kwargs)
                tokens, index, weights = bound.args[1:]
                called(_key, (tokens, index, weights))
                some = None if only is None else only[_key]
                return run_experts(_module, lambda *heard: hear(_key, *heard), tokens, index, weights, some)

            module.forward = forward
            stack.callback(delattr, module, "forward")
        yield


def run_experts(
    module: Any,
    hear: Hear,
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
    only: Collection[int] | None = None,
) -> Tensor:
    """The module's own result, expert after expert. hidden_states: (tokens, width); the others: (tokens, k).

    only: of these experts, where the others' part of the result is not wanted. The parameters' names are those of
    the modules' interface.
    """
    up = first_parameter(module)
    result = torch.zeros_like(hidden_states)
    for index, token, place in routes(top_k_index, count_experts(module)):
        if only is not None and index not in only:
            continue
        inputs = hidden_states[token]
        raised = _product(module, up, index, inputs)
        hear(up, index, inputs, raised)
        activated = module._apply_gate(raised) if module.has_gate else module.act_fn(raised)
        lowered = _product(module, DOWN, index, activated)
        hear(DOWN, index, activated, lowered)
        outputs = lowered * top_k_weights[token, place, None]
        result.index_add_(0, token, outputs.to(result.dtype))
    return result


def routes(top_k_index: Tensor, experts: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Each expert that tokens go to, in order, with these and the places where they name it, (tokens,) each.

    One sort, and one look at how many go where, whatever the number of experts. top_k_index: (tokens, k).
    """
    given, order = torch.sort(top_k_index.flatten(), stable=True)
    token, place = order // top_k_index.shape[1], order % top_k_index.shape[1]
    numbers = torch.arange(experts + 1, device=given.device, dtype=given.dtype)
    bounds = torch.searchsorted(given, numbers).tolist()
    for index, (start, end) in enumerate(pairwise(bounds)):
        if start < end:
            yield index, token[start:end], place[start:end]


def first_parameter(module: Any) -> str:
    """The name of the parameter that reads the layer's tokens."""
    return "gate_up_proj" if module.has_gate else "up_proj"


def _product(module: Any, parameter: str, index: int, inputs: Tensor) -> Tensor:
    bias = getattr(module, f"{parameter}_bias")[index] if module.has_bias else None
    return functional.linear(inputs, expert_weight(module, parameter, index), bias)


def expert_weight(module: Any, parameter: str, index: int) -> Tensor:
    """(out, in), whichever way the module keeps it."""
    return of_expert(module, getattr(module, parameter), index)


def of_expert(module: Any, held: Tensor, index: int) -> Tensor:
    """The same. held: what the module has of all experts."""
    return held[index].T if module.is_transposed else held[index]
