"""A model's module graph without its weights: decoder blocks and prunable matrices, found from the graph.

Names here are the checkpoint's own; a checkpoint whose names are not those of the modules is refused.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from worker.pruning.checkpoint import DTYPES, Checkpoint
from worker.pruning.errors import UserError

OLD_ROTARY = r"rotary_emb\.inv_freq$"
"""Old checkpoints hold a constant for every block; transformers ignores it too."""


@dataclass(frozen=True)
class Matrix:
    """One prunable weight. rows = outputs, columns = inputs, also where the checkpoint stores it transposed."""

    name: str
    module: str
    """Path of its module inside the block."""
    rows: int
    columns: int
    transposed: bool

    @property
    def weights(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class Block:
    """One decoder block: its module (weights on the meta device until loaded) and its tensors' names."""

    index: int
    prefix: str
    module: nn.Module
    tensors: tuple[str, ...]
    matrices: tuple[Matrix, ...]

    @property
    def weights(self) -> int:
        return sum(matrix.weights for matrix in self.matrices)


@dataclass(frozen=True)
class Skeleton:
    """The whole graph. outer: tensors outside the blocks; skipped: tensor → why it is not pruned."""

    model: Any
    config: Any
    blocks: tuple[Block, ...]
    outer: tuple[str, ...]
    skipped: dict[str, str]

    @property
    def matrices(self) -> list[Matrix]:
        return [matrix for block in self.blocks for matrix in block.matrices]


def build(folder: Path, checkpoint: Checkpoint) -> Skeleton:
    """The graph of the model in `folder`. Raises UserError when it cannot be pruned block by block."""
    config = _config(folder)
    with parameters_on_meta():
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.eval().requires_grad_(False)
    model.tie_weights()
    _compare_names(model, checkpoint)
    prefix, modules = find_blocks(model)
    names = set(checkpoint.tensors)
    blocks = tuple(_block(i, f"{prefix}.{i}", module, names, checkpoint) for i, module in enumerate(modules))
    _refuse_shared(model, blocks)
    inside = {name for block in blocks for name in block.tensors}
    outer = tuple(sorted(names - inside))
    return Skeleton(model, config, blocks, outer, _skipped(model, blocks, checkpoint))


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Parameters made inside take no memory; buffers (rotary frequencies and such) are real.

    torch.device("meta") would lose the buffers that no checkpoint holds.
    """
    register = nn.Module.register_parameter

    def register_on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.to("meta"), requires_grad=False)
        register(self, name, param)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of decoder blocks: the one outermost ModuleList whose every entry holds a linear layer."""
    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, nn.ModuleList) and len(module) and not nested and all(map(_has_linear, module)):
            found.append((name, module))
    if len(found) != 1:
        names = ", ".join(name for name, _ in found) or "none"
        raise UserError("unsupported_model", f"no clear list of decoder blocks (candidates: {names})", "/model")
    return found[0]


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Linear | Conv1D) for part in module.modules())


def _config(folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0]
        raise UserError("unsupported_model", f"config.json cannot be read: {first}", "/model") from error
    if getattr(config, "quantization_config", None):
        raise UserError("unsupported_model", "the checkpoint is quantised; de-quantise it first", "/model")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UserError("unsupported_model", f"{config.model_type} is not a causal language model", "/model")
    return config


def _compare_names(model: Any, checkpoint: Checkpoint) -> None:
    """Every module tensor must be in the checkpoint (or tied to one that is), and the other way round."""
    expected = model.state_dict(keep_vars=True)
    stored = checkpoint.tensors
    ignored = [OLD_ROTARY, *(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or [])]
    for name in stored:
        if name not in expected and not any(re.search(pattern, name) for pattern in ignored):
            raise UserError("unsupported_model", f"checkpoint tensor {name} belongs to no module", "/model")
    present = {id(tensor) for name, tensor in expected.items() if name in stored}
    for name, tensor in expected.items():
        if id(tensor) not in present:
            raise UserError("unsupported_model", f"the checkpoint lacks {name}", "/model")
        if name in stored and stored[name].shape != tuple(tensor.shape):
            raise UserError(
                "unsupported_model", f"{name} has shape {stored[name].shape} in the checkpoint", "/model"
            )


def _block(index: int, prefix: str, module: nn.Module, names: set[str], checkpoint: Checkpoint) -> Block:
    tensors = tuple(sorted(name for name in names if name.startswith(f"{prefix}.")))
    matrices = []
    for path, part in module.named_modules():
        name = f"{prefix}.{path}.weight" if path else f"{prefix}.weight"
        if not isinstance(part, nn.Linear | Conv1D) or name not in names:
            continue
        if checkpoint.tensors[name].dtype not in DTYPES:
            raise UserError("unsupported_model", f"{name} is stored as {checkpoint.tensors[name].dtype}", "/model")
        transposed = isinstance(part, Conv1D)
        rows, columns = reversed(part.weight.shape) if transposed else part.weight.shape
        matrices.append(Matrix(name, path, rows, columns, transposed))
    return Block(index, prefix, module, tensors, tuple(matrices))


def _refuse_shared(model: Any, blocks: tuple[Block, ...]) -> None:
    """A weight used by two places cannot be pruned for one of them."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for block in blocks:
        for name, parameter in block.module.named_parameters():
            if uses[id(parameter)] > 1:
                raise UserError(
                    "unsupported_model", f"{block.prefix}.{name} is shared with another layer", "/model"
                )


def _skipped(model: Any, blocks: tuple[Block, ...], checkpoint: Checkpoint) -> dict[str, str]:
    prunable = {matrix.name for block in blocks for matrix in block.matrices}
    inside = {name for block in blocks for name in block.tensors}
    modules = dict(model.named_modules())
    reasons = {}
    for name, info in sorted(checkpoint.tensors.items()):
        if name in prunable:
            continue
        owner = type(modules.get(name.rpartition(".")[0])).__name__
        if name not in inside:
            reasons[name] = f"outside the decoder blocks ({owner})"
        elif len(info.shape) != 2:
            reasons[name] = f"not a matrix ({owner})"
        else:
            reasons[name] = f"not a linear layer's weight ({owner})"
    return reasons
