"""The record of one matrix: what was asked, what was written, and what became of the mask of the stage before."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from secateur.spec.method import Method
from secateur.spec.records.history import MatrixRecord
from worker.pruning.calibration.expert_fallback import ExpertTokens
from worker.pruning.methods.masks import Solution
from worker.pruning.model.checkpoint import read_file
from worker.pruning.state.digests import mask_sha256, weights_sha256
from worker.pruning.state.file import read_document
from worker.pruning.targets.budget import WeightTarget

Record = Mapping[str, Any]
"""A `MatrixRecord` as it travels in state files."""
History = Sequence[Sequence[Record]]
"""A block's records of every stage of the lineage so far."""
HISTORY: Final = "history"


@dataclass(frozen=True)
class Solved:
    """One matrix of a stage, solved by a method and cast. written: in the checkpoint's own dtype and orientation,
    on the CPU.

    scores: what its mask was chosen by, or what the search for it began with, (out, in). relative_error,
    held_out_error: of `written` in front of the layer's inputs.
    """

    method: Method
    scores: Tensor
    solution: Solution
    written: Tensor
    relative_error: float | None
    held_out_error: float | None
    seconds: float = 0.0


def matrix_record(target: WeightTarget, solved: Solved, dead: int, expert: ExpertTokens | None) -> MatrixRecord:
    """Counts and digests are taken from the tensor as it is written.

    dead: inputs that were always zero. expert: how its expert fared, None for a matrix of no expert.
    """
    matrix, written = target.matrix, solved.written
    zeros = matrix.weights - int(torch.count_nonzero(written))  # summing booleans would widen each to 64 bits
    return MatrixRecord(
        matrix=matrix.name,
        rows=matrix.rows,
        columns=matrix.columns,
        weights=matrix.weights,
        zeros=zeros,
        sparsity=zeros / matrix.weights,
        target=target.target,
        pattern=str(target.pattern),
        relative_error=solved.relative_error,
        held_out_error=solved.held_out_error,
        seconds=solved.seconds,
        mask_sha256=mask_sha256(written),
        weights_sha256=weights_sha256(written),
        solver=solved.method.solver,
        notes=_notes(target, solved, zeros, dead, expert),
    )


def _notes(
    target: WeightTarget, solved: Solved, zeros: int, dead: int, expert: ExpertTokens | None
) -> dict[str, Any]:
    notes = dict(solved.solution.notes)
    if zeros != target.zeros:
        # Zeros of the dense weights that the mask kept, or values too small for the dtype.
        notes["zeros_beyond_mask"] = zeros - (target.zeros or 0)
    if dead:
        notes["dead_inputs"] = dead
    if target.overrides:
        notes["overrides"] = list(target.overrides)
    if expert is not None:
        notes["expert"] = expert.notes
    return notes


def compare_masks(record: MatrixRecord, written: Tensor, before: Tensor) -> MatrixRecord:
    """The record with what the mask has in common with the stage before's.

    written, before: the matrix now and then, both as in their files. Overlap is the Jaccard index of the sets of
    weights that are kept, |A ∩ B| / |A ∪ B|, and 1 where both are empty; the others are shares of all weights.
    """
    now, then = written != 0, before != 0
    revived, pruned, united = (int(torch.count_nonzero(part)) for part in (now & ~then, then & ~now, now | then))
    return record.model_copy(
        update={
            "mask_changed": (revived + pruned) / record.weights,
            "mask_overlap": 1 - (revived + pruned) / united if united else 1.0,
            "revived": revived / record.weights,
            "newly_pruned": pruned / record.weights,
        }
    )


def mask_overlap(records: Iterable[Record]) -> float | None:
    """The Jaccard index of all matrices' kept weights taken together; None where none was compared."""
    compared = [record for record in records if record["mask_overlap"] is not None]
    if not compared:
        return None
    common, united = 0, 0
    for record in compared:
        weights, kept = record["weights"], record["weights"] - record["zeros"]
        common += kept - round(record["revived"] * weights)
        united += kept + round(record["newly_pruned"] * weights)
    return common / united if united else 1.0


def timeless(records: Iterable[MatrixRecord]) -> list[dict[str, Any]]:
    """The records without their times: the same in every run, to travel in the state and make the report."""
    return [record.model_dump(exclude={"seconds"}) for record in records]


def stored_history(before: History, records: Iterable[MatrixRecord]) -> dict[str, Tensor]:
    """One more stage's records behind those of the stages before, as a tensor of a state file: JSON, uint8.

    A file's header, where the document is, may have 100 MB; many experts over many stages need more. Earlier
    stages' errors by domain are left out: they would grow with the square of the stages.
    """
    carried = [[{**record, "domain_errors": None} for record in records] for records in before]
    text = json.dumps([*carried, timeless(records)], sort_keys=True, allow_nan=False)
    return {HISTORY: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}


def read_history(path: Path) -> History:
    """What `stored_history` put into a state file; older files have it in their document."""
    older: History | None = read_document(path).get(HISTORY)
    if older is not None:
        return older
    text = read_file(path, {HISTORY})[HISTORY].numpy().tobytes()
    found: History = json.loads(text)
    return found
