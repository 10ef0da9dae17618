"""One family held against transformers: the loss of the dense and of the pruned model, and every mask of Wanda."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from secateur.spec.records.pipe import Evaluation, Message
from tests.tiny import text
from worker.pruning import PruningJob, Silent, UserError, plan, run
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.windows import calibration_windows, evaluation_windows
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.experts import is_experts
from worker.pruning.model.graph import Block, PrunableWeight, build_graph

TOLERANCE = 1e-4
"""How far our loss may be from transformers', relative to it."""
UNPREDICTED = -100
"""The label of a token that no loss is taken of."""
LENGTH = 32


@dataclass(frozen=True)
class Outcome:
    """What a family came to. reason: why it is refused, or what differed. ours, theirs: losses, dense and pruned.
    matrices: whose masks were recomputed entry by entry, of `pruned`."""

    supported: bool
    reason: str = ""
    ours: tuple[float, float] | None = None
    theirs: tuple[float, float] | None = None
    matrices: int = 0
    pruned: int = 0

    @property
    def agrees(self) -> bool:
        """Whether a supported family's figures are transformers'."""
        return not (self.supported and self.reason)


def request(model: Path, workspace: Path, method: str) -> dict[str, Any]:
    """An engine request over texts that are written beside the workspace."""
    workspace.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate("ab"):
        (workspace / f"{name}.txt").write_text(text(1500, seed), encoding="utf-8")
    windows = {"samples": 6, "sequence_length": LENGTH}
    return {
        "workspace": str(workspace / method),
        "model": str(model),
        "device": "cpu",
        "threads": 1,
        "method": {"name": method},
        "sparsity": {"target": 0.5, "allocation": "uniform"},
        "numerics": "exact",  # transformers, which it is held against, computes in float32
        "domains": [{"name": "a", "dataset": "a", "calibration": windows, "evaluation": "b"}],
        "texts": {name: {"path": str(workspace / f"{name}.txt")} for name in "ab"},
        "evaluation": {"sequence_length": LENGTH, "max_windows": 4},
    }


class _Losses(Silent):
    def __init__(self) -> None:
        self.found: list[float] = []

    def tell(self, record: Message) -> None:
        if isinstance(record, Evaluation):
            self.found.append(record.loss)


def check(model: Path, workspace: Path, method: str = "wanda") -> Outcome:
    """Plan and prune the model in its folder to 50 %, and hold what comes out against transformers."""
    job = PruningJob.from_dict(request(model, workspace, method))
    try:
        planned = plan(job)
    except UserError as error:
        return Outcome(False, error.message)
    listener = _Losses()
    output = run(job, listener)
    folder = job.workspace / "stage-00/model"
    ours = (listener.found[0], listener.found[1])
    differences = _files(model, folder, planned, json.loads((job.workspace / "report.json").read_text()))
    theirs_dense, _ = their_loss(model, job)
    theirs_pruned, info = their_loss(folder, job)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            differences.append(f"{kind}: {sorted(map(str, info[kind]))[0]}")
    for kind, our, their in (("dense", ours[0], theirs_dense), ("pruned", ours[1], theirs_pruned)):
        if not abs(our - their) <= TOLERANCE * abs(their):
            differences.append(f"{kind} loss {our:.6f} where transformers has {their:.6f}")
    if output.summary.zeros != planned["zeros"]:
        differences.append(f"{output.summary.zeros} zeros where the plan has {planned['zeros']}")
    matrices = 0
    if method == "wanda":
        matrices, wrong = compare_masks(model, folder, job)
        differences += wrong
    return Outcome(
        True, "; ".join(differences), ours, (theirs_dense, theirs_pruned), matrices, len(planned["matched"])
    )


def _files(before: Path, after: Path, planned: dict[str, Any], report: dict[str, Any]) -> list[str]:
    """What is wrong with the pruned tensors, and with those that had to stay as they are."""
    old, new = Checkpoint.open(before), Checkpoint.open(after)
    if old.tensors.keys() != new.tensors.keys():
        return [f"other tensors: {min(old.tensors.keys() ^ new.tensors.keys())}"]
    zeros: Counter[str] = Counter()
    for entry in planned["matched"]:
        name, _, index = entry["name"].rpartition(".")  # one matrix of a tensor that holds several
        zeros[name if index.isdigit() else entry["name"]] += entry["zeros"]
    found = ["the report skips other tensors"] if report["skipped"] != planned["skipped"] else []
    for name in old.tensors:
        one, other = old.read([name])[name], new.read([name])[name]
        if name not in zeros and not torch.equal(one, other):
            found.append(f"{name} changed")
        if name in zeros and int((other == 0).sum()) != zeros[name]:
            found.append(f"{name} has {int((other == 0).sum())} zeros, not {zeros[name]}")
    return found


@torch.no_grad()
def their_loss(folder: Path, job: PruningJob) -> tuple[float, dict[str, Any]]:
    """transformers' own mean loss over the job's evaluation windows, and what it said about the loading."""
    model, info = loaded(folder)
    _, where, field = job.evaluated[0]
    tokenizer = Tokenizer(folder)
    windows = evaluation_windows(tokenizer, where, job.evaluation, field)
    labels = windows.clone()
    labels[:, : tokenizer.context] = UNPREDICTED
    rows = zip(windows, labels, strict=True)
    losses = [float(model(input_ids=one[None], labels=two[None], use_cache=False).loss) for one, two in rows]
    return math.fsum(losses) / len(losses), info


def loaded(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model by the class that its configuration names, and what transformers said about the loading."""
    named = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
    found: tuple[Any, dict[str, Any]] = named.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    return found


@torch.no_grad()
def compare_masks(before: Path, after: Path, job: PruningJob) -> tuple[int, list[str]]:
    """Recompute Wanda's masks by hooks in transformers' own model: how many matrices, and which differ.

    Block after block: the blocks before it as they were pruned, itself dense.
    """
    dense, pruned = loaded(before)[0], loaded(after)[0]
    checkpoint = Checkpoint.open(before)
    graph = build_graph(before, checkpoint)
    windows = calibration_windows(Tokenizer(before), job.texts["a"], job.domains[0].calibration, "").solved_on
    count, wrong = 0, []
    for block in graph.blocks:
        module, own = pruned.get_submodule(block.prefix), dense.get_submodule(block.prefix)
        kept = {name: value.clone() for name, value in module.state_dict().items()}
        module.load_state_dict(own.state_dict())
        energies = _energies(pruned, module, block, windows)
        module.load_state_dict(kept)
        for matrix in block.matrices:
            tokens, energy = energies.get(_place(matrix), (0, torch.zeros(0)))
            if matrix.expert is None or tokens >= matrix.columns:  # with fewer, others' statistics stand in
                count += 1
                if not _wanda(_weight(own, matrix), energy, _weight(module, matrix) != 0):
                    wrong.append(f"{matrix.name} has another mask")
    return count, wrong


Place = tuple[str, str, int]
"""A module in its block, the kind of matrix, and the expert."""


def _place(matrix: PrunableWeight) -> Place:
    if matrix.expert is None:
        return matrix.module, "weight", 0
    return matrix.module, matrix.expert.parameter, matrix.expert.index


def _weight(block: nn.Module, matrix: PrunableWeight) -> Tensor:
    """(out, in), out of transformers' own module."""
    module: Any = block.get_submodule(matrix.module)
    if matrix.expert is None:
        weight: Tensor = module.weight.detach()
        return weight.T if isinstance(module, Conv1D) else weight
    weight = getattr(module, matrix.expert.parameter)[matrix.expert.index].detach()
    first = matrix.expert.first_row
    return (weight.T if module.is_transposed else weight)[first : first + matrix.rows]


def _energies(model: Any, block: nn.Module, known: Block, windows: Tensor) -> dict[Place, tuple[int, Tensor]]:
    """What every matrix reads in transformers' own model: tokens, and the sums of their squares, (in,)."""
    found: dict[Place, tuple[int, Tensor]] = {}

    def add(place: Place, inputs: Tensor) -> None:
        flat = inputs.double().flatten(0, -2)
        tokens, energy = found.get(place, (0, torch.zeros(flat.shape[1], dtype=torch.float64)))
        found[place] = (tokens + len(flat), energy + flat.square().sum(dim=0))

    def linear(path: str) -> Any:
        return lambda _module, args: add((path, "weight", 0), args[0])

    def experts(path: str) -> Any:
        return lambda module, args: _experts(module, path, args, add)

    handles = []
    for path in {matrix.module for matrix in known.matrices}:
        part = block.get_submodule(path)
        handles.append(part.register_forward_pre_hook((experts if is_experts(part) else linear)(path)))
    for window in windows:
        model(input_ids=window[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def _experts(module: Any, path: str, args: tuple[Any, ...], add: Any) -> None:
    """Add what both products of every expert read. args: the tokens, (tokens, width), and where each one goes."""
    tokens, chosen = args[:2]
    first = "gate_up_proj" if module.has_gate else "up_proj"
    for index in range(len(module.down_proj)):
        inputs = tokens[(chosen == index).any(dim=1)]
        weight = getattr(module, first)[index]
        raised = inputs @ (weight if module.is_transposed else weight.T)
        if module.has_bias:
            raised = raised + getattr(module, f"{first}_bias")[index]
        add((path, first, index), inputs)
        add((path, "down_proj", index), module._apply_gate(raised) if module.has_gate else module.act_fn(raised))


def _wanda(weight: Tensor, energy: Tensor, mask: Tensor) -> bool:
    """Whether in every row those are kept that score highest, up to scores that are as good as equal."""
    scores = weight.double().abs() * energy.sqrt()
    lowest_kept = scores.masked_fill(~mask, math.inf).amin(dim=1)
    highest_lost = scores.masked_fill(mask, -math.inf).amax(dim=1)
    return bool((highest_lost <= lowest_kept * (1 + 1e-4)).all())
