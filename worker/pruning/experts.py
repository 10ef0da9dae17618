"""Mixtures of experts: which matrix is which part of a layer's experts, and what arrives at each.

transformers keeps a layer's experts in one module with one 3-D parameter a kind of matrix. Every such module that
can change its implementation (the decorator `use_experts_implementation`) has one interface: called with the
tokens, the experts that each token goes to, and their weights; `gate_up_proj` or `up_proj`, then `down_proj`.
Nothing here knows a family by name.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.core_model_loading import Concatenate, MergeModulelist

from worker.pruning.checkpoint import Checkpoint
from worker.pruning.errors import UserError
from worker.pruning.naming import Names, Part

DOWN = "down_proj"
UNSUPPORTED = ("is_transposed", "has_bias", "has_post_expert_norm")
"""Forms of the interface that no checkpoint with one matrix an expert has."""

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
    return all(hasattr(module, name) for name in ("has_gate", *UNSUPPORTED))


def refuse_fused(path: str, module: nn.Module) -> None:
    """Raise UserError when the module's own parameters are experts that cannot be told apart here."""
    fused = [name for name, value in module.named_parameters(recurse=False) if value.squeeze().ndim == 3]
    convolution = isinstance(module, nn.modules.conv._ConvNd)
    known = is_experts(module) and not any(getattr(module, name) for name in UNSUPPORTED)
    if fused and not convolution and not known:
        message = (
            f"{path}.{fused[0]} holds several matrices in a form that cannot be pruned ({type(module).__name__})"
        )
        raise UserError("unsupported_model", message, "/model")


def find_experts(path: str, module: nn.Module, names: Names, checkpoint: Checkpoint) -> dict[str, Expert]:
    """Checkpoint name → place of every matrix of the experts in `module`, expert by expert.

    path: the module's path in the model. Raises UserError when the checkpoint has not one matrix an expert.
    """
    found: dict[str, Expert] = {}
    for parameter, value in module.named_parameters(recurse=False):
        if value.ndim == 3:
            found |= _slices(parameter, names.sources(f"{path}.{parameter}"), checkpoint)
    return dict(sorted(found.items(), key=lambda item: item[1].index))


def _slices(parameter: str, parts: list[Part], checkpoint: Checkpoint) -> dict[str, Expert]:
    operations = [type(step) for step in parts[0].converter.operations] if parts[0].converter else []
    if operations not in ([MergeModulelist], [MergeModulelist, Concatenate]):
        message = f"{parts[0].name} holds all experts of a layer; only one matrix an expert can be pruned"
        raise UserError("unsupported_model", message, "/model")
    found: dict[str, Expert] = {}
    row = 0
    # Of one pattern, the list's order numbers the experts; the patterns' order stacks their rows.
    for pattern in parts[0].converter.source_patterns:
        own = [part.name for part in parts if part.pattern == pattern]
        found |= {name: Expert(parameter, index, row) for index, name in enumerate(own)}
        row += checkpoint.tensors[own[0]].shape[0]
    return found


@contextmanager
def listening(
    modules: dict[str, nn.Module], hear: Callable[[str, str, int, Tensor, Tensor], None]
) -> Iterator[None]:
    """While inside, `modules` of experts (by any key) tell what each does: hear(key, parameter, expert, x, z)."""
    with ExitStack() as stack:
        for key, module in modules.items():

            def forward(*args: Any, _key: str = key, _module: nn.Module = module, **kwargs: Any) -> Tensor:
                return run_experts(_module, lambda *heard: hear(_key, *heard), *args, **kwargs)

            module.forward = forward
            stack.callback(delattr, module, "forward")
        yield


def run_experts(
    module: Any, hear: Hear, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """The module's own result, expert after expert. hidden_states: (tokens, width); the others: (tokens, k).

    The parameters' names are those of the modules' interface.
    """
    up = "gate_up_proj" if module.has_gate else "up_proj"
    result = torch.zeros_like(hidden_states)
    for index in sorted(set(top_k_index.flatten().tolist())):
        token, place = torch.where(top_k_index == index)
        inputs = hidden_states[token]
        raised = functional.linear(inputs, getattr(module, up)[index])
        hear(up, index, inputs, raised)
        activated = module._apply_gate(raised) if module.has_gate else module.act_fn(raised)
        lowered = functional.linear(activated, module.down_proj[index])
        hear(DOWN, index, activated, lowered)
        outputs = lowered * top_k_weights[token, place, None]
        result = result.index_add(0, token, outputs.to(result.dtype))
    return result
