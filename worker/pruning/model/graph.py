"""A model's module graph without its weights: decoder blocks and prunable matrices, found from the graph.

Names of tensors and matrices are the checkpoint's own, whatever the modules are called; `naming` knows both.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.pytorch_utils import Conv1D

from worker.machine_errors import is_out_of_memory
from worker.model_files.architectures import causal_models
from worker.model_files.config import read_config
from worker.pruning.errors import UserError, blaming
from worker.pruning.model.checkpoint import DTYPES, UNQUANTISED, Checkpoint
from worker.pruning.model.dry_run import called_layers
from worker.pruning.model.experts import Expert, StoredExpert, count_experts, find_experts, fused, is_experts
from worker.pruning.model.tracing import check_blocks
from worker.pruning.model.weight_names import Names, Part
from worker.pruning.runtime.numerics import all_finite


@dataclass(frozen=True)
class PrunableWeight:
    """One prunable weight. rows = outputs, columns = inputs, also where the checkpoint stores it transposed."""

    name: str
    module: str
    """Path of its module inside the block."""
    rows: int
    columns: int
    transposed: bool = False
    expert: Expert | None = None
    """Which part of `module`, when that holds all experts of a layer."""
    slice: int | None = None
    """Its number in the stored tensor, when that holds one matrix an expert; the last part of the name."""

    @property
    def tensor(self) -> str:
        """The stored tensor that it is, or that it is a slice of."""
        return self.name if self.slice is None else self.name.rpartition(".")[0]

    def of(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The matrix as it is stored, out of the stored tensors; a view."""
        stored = tensors[self.tensor]
        return stored if self.slice is None else stored[self.slice]

    @property
    def weights(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class Block:
    """One decoder block: its module (weights on the meta device until loaded) and its tensors' names.

    prefix: the module's own path in the model, which need not be how its tensors' names begin. unrounded: of a
    loaded block, by path, the parameters as stored that its module holds in a dtype that may round them.
    """

    index: int
    prefix: str
    module: nn.Module
    tensors: tuple[str, ...]
    matrices: tuple[PrunableWeight, ...]
    unrounded: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def weights(self) -> int:
        return sum(matrix.weights for matrix in self.matrices)


@dataclass(frozen=True)
class ModelGraph:
    """The whole graph. outer: tensors outside the blocks that a text passes; towers: paths of modules that none
    passes, such as a vision model; aside: tensors of these, and of no module; skipped: tensor → why it is not
    pruned."""

    model: Any
    config: Any
    blocks: tuple[Block, ...]
    outer: tuple[str, ...]
    towers: tuple[str, ...]
    aside: tuple[str, ...]
    skipped: dict[str, str]
    names: Names

    @property
    def matrices(self) -> list[PrunableWeight]:
        return [matrix for block in self.blocks for matrix in block.matrices]


def build_graph(folder: Path, checkpoint: Checkpoint) -> ModelGraph:
    """The graph of the model in `folder`. Raises UserError when it cannot be pruned block by block."""
    model = _model(folder)
    model.eval().requires_grad_(False)
    model.tie_weights()
    _check_frequencies(model)
    names = Names.find(model, checkpoint)
    prefix, modules = find_blocks(model)
    blocks = tuple(_block(i, f"{prefix}.{i}", module, names, checkpoint) for i, module in enumerate(modules))
    _refuse_shared(model, blocks)
    inside = {name for block in blocks for name in block.tensors}
    outside = sorted(checkpoint.tensors.keys() - inside)
    towers = find_towers(model, prefix)
    aside = tuple(name for name in outside if _is_aside(names.target(name), towers))
    outer = tuple(name for name in outside if name not in set(aside))
    graph = ModelGraph(model, model.config, blocks, outer, towers, aside, {}, names)
    called = called_layers(graph, check_blocks(graph))
    blocks = tuple(_only_called(block, paths) for block, paths in zip(blocks, called, strict=True))
    return replace(graph, blocks=blocks, skipped=_skipped(graph, blocks, checkpoint))


def _check_frequencies(model: nn.Module) -> None:
    """Refuse a configuration whose rotary frequencies are no numbers: a theta or factor of 0, a negative theta."""
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq") and not all_finite(buffer):
            message = f"config.json gives {name} values that are not finite: mend its rope parameters"
            raise UserError("unsupported_model", message, "/model")


def _only_called(block: Block, called: frozenset[str]) -> Block:
    """Without the matrices whose inputs nobody sees, because the block uses their weights in another way."""
    matrices = tuple(each for each in block.matrices if each.expert is not None or each.module in called)
    return replace(block, matrices=matrices)


def find_blocks(model: Any) -> tuple[str, nn.ModuleList]:
    """The list of decoder blocks: the one outermost ModuleList whose every entry holds a linear layer.

    Of a model with several parts, the one in the part that the model itself calls its decoder.
    """
    found = _lists(model)
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    inside = [(name, blocks) for name, blocks in found if any(part is blocks for part in decoder.modules())]
    if len(inside) != 1:
        names = ", ".join(name for name, _ in inside or found) or "none"
        raise UserError("unsupported_model", f"no clear list of decoder blocks (candidates: {names})", "/model")
    return inside[0]


def find_towers(model: Any, prefix: str) -> tuple[str, ...]:
    """Paths of the parts with blocks of their own beside those at `prefix`.

    Each is the largest that holds neither these nor the output head.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    needed = [f"{prefix}.", *(f"{name}." for name, part in model.named_modules() if part is head)]
    towers = []
    for name, _ in _lists(model):
        steps = name.split(".")
        above = [".".join(steps[:count]) for count in range(1, len(steps) + 1)]
        towers += [path for path in above if not any(each.startswith(f"{path}.") for each in needed)][:1]
    return tuple(dict.fromkeys(towers))


def _lists(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """Every outermost ModuleList whose every entry holds a linear layer."""
    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, nn.ModuleList) and len(module) and not nested and all(map(_has_linear, module)):
            found.append((name, module))
    return found


def _is_aside(target: str | None, towers: tuple[str, ...]) -> bool:
    return target is None or any(target.startswith(f"{tower}.") for tower in towers)


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Linear | Conv1D) for part in module.modules() if part is not module)


def _model(folder: Path) -> Any:
    """The module graph that config.json describes. Raises UserError for what cannot be pruned at all."""
    with _small_enough(), blaming("unsupported_model", "config.json describes no model", "/model"):
        architecture = read_config(folder / "config.json").architecture
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # Buffers are real: those of rotary frequencies and such are in no checkpoint.
        with init_empty_weights(include_buffers=False):
            # Experts one after another, in one order everywhere; faster ways are for bfloat16 on some devices.
            model: Any = _auto_class(config.model_type, architecture).from_config(
                config, dtype=torch.float32, trust_remote_code=False, experts_implementation="eager"
            )
    return model


@contextmanager
def _small_enough() -> Iterator[None]:
    """A graph's parameters take no memory but for a moment each; one for which there is none is no model's."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = "config.json describes tensors larger than this machine's memory: mend its sizes"
        raise UserError("unsupported_model", message, "/model") from error


def _auto_class(model_type: str, architecture: str) -> Any:
    alone = architecture in causal_models().get(model_type, ())
    return AutoModelForCausalLM if alone else AutoModelForImageTextToText


def _block(index: int, prefix: str, module: nn.Module, names: Names, checkpoint: Checkpoint) -> Block:
    tensors = sorted(name for name in checkpoint.tensors if (names.target(name) or "").startswith(f"{prefix}."))
    matrices: list[PrunableWeight] = []
    others: dict[str, int] = {}
    for path, part in module.named_modules():
        whole = f"{prefix}.{path}" if path else prefix
        others |= {f"{whole}.{name}": size for name, size in fused(part).items()}
        if is_experts(part) and not fused(part):
            matrices += [_expert(path, each) for each in find_experts(whole, part, names, checkpoint)]
        elif isinstance(part, nn.Linear | Conv1D) and not _routes(module, path):
            matrices += _linear(path, part, names.sources(f"{whole}.weight"))
    if sum(others.values()) > sum(matrix.weights for matrix in matrices):
        message = (
            f"{min(others)} holds several matrices in a form that cannot be pruned, most of its block's weights"
        )
        raise UserError("unsupported_model", f"{message}: take a model from docs/families.md", "/model")
    for matrix in matrices:
        dtype = checkpoint.tensors[matrix.tensor].dtype
        if dtype not in DTYPES:
            raise UserError("unsupported_model", f"{matrix.name} is stored as {dtype}: {UNQUANTISED}", "/model")
    return Block(index, prefix, module, tuple(tensors), tuple(matrices))


def _expert(path: str, stored: StoredExpert) -> PrunableWeight:
    rows, columns = stored.shape[::-1] if stored.transposed else stored.shape
    name = stored.tensor if stored.slice is None else f"{stored.tensor}.{stored.slice}"
    return PrunableWeight(name, path, rows, columns, stored.transposed, stored.place, stored.slice)


def _linear(path: str, part: nn.Linear | Conv1D, sources: list[Part]) -> list[PrunableWeight]:
    transposed = isinstance(part, Conv1D)
    shape = tuple(part.weight.shape)
    rows, columns = shape[::-1] if transposed else shape
    for source in sources:
        if source.converter is not None:
            message = f"{source.name} is taken apart or put together on loading; it has no module of its own"
            raise UserError("unsupported_model", message, "/model")
    return [PrunableWeight(source.name, path, rows, columns, transposed) for source in sources]


def _routes(block: nn.Module, path: str) -> bool:
    """Whether a module says which tokens go to which of a layer's experts, or how much they count.

    It has an output for each of them, or a single one, and stands beside them or in a module that does.
    """
    outputs = {1}
    parent = path.rpartition(".")[0]
    for above in (parent, parent.rpartition(".")[0]) if parent else (parent,):
        outputs |= {count_experts(child) for child in block.get_submodule(above).children() if is_experts(child)}
    weight = getattr(block.get_submodule(path), "weight", None)
    return len(outputs) > 1 and weight is not None and weight.shape[0] in outputs


def _refuse_shared(model: Any, blocks: tuple[Block, ...]) -> None:
    """A weight used by two places cannot be pruned for one of them."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for block in blocks:
        for name, parameter in block.module.named_parameters():
            if uses[id(parameter)] > 1:
                raise UserError(
                    "unsupported_model", f"{block.prefix}.{name} is shared with another layer", "/model"
                )


def _skipped(graph: ModelGraph, blocks: tuple[Block, ...], checkpoint: Checkpoint) -> dict[str, str]:
    model, names, towers = graph.model, graph.names, graph.towers
    prunable = {matrix.tensor for block in blocks for matrix in block.matrices}
    inside = {name for block in blocks for name in block.tensors}
    modules = dict(model.named_modules())
    reasons = {}
    for name, info in sorted(checkpoint.tensors.items()):
        if name in prunable:
            continue
        target = names.target(name)
        path = (target or "").rpartition(".")[0]
        owner = type(modules.get(path)).__name__
        if target is None:
            reasons[name] = "no part of the model (copied as it is)"
        elif _is_aside(target, towers):
            reasons[name] = "outside the language model (copied as it is)"
        elif name not in inside:
            reasons[name] = f"outside the decoder blocks ({owner})"
        elif len(info.shape) != 2:
            reasons[name] = f"not a matrix ({owner})"
        elif _routes(model, path):
            reasons[name] = f"routes tokens to experts ({owner})"
        elif isinstance(modules.get(path), nn.Linear | Conv1D):
            reasons[name] = f"its layer is never called, so what it reads is not known ({owner})"
        else:
            reasons[name] = f"not a linear layer's weight ({owner})"
    return reasons
