"""The record of one matrix: what was asked, what was written, and what became of the mask of the stage before."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from secateur.spec.method import Method
from secateur.spec.metrics import mean
from secateur.spec.records.history import MatrixRecord
from worker.pruning.calibration.expert_fallback import ExpertTokens
from worker.pruning.methods.masks import Solution
from worker.pruning.model.checkpoint import read_file
from worker.pruning.state.digests import FINGERPRINTS, Bits, Contents, count
from worker.pruning.state.file import read_document
from worker.pruning.targets.budget import WeightTarget

Record = Mapping[str, Any]
"""A `MatrixRecord` as it travels in state files."""
History = Sequence[Sequence[Record]]
"""A block's records of every stage of the lineage so far."""
HISTORY: Final = "history"


@dataclass(frozen=True)
class Solved:
    """One matrix of a stage, solved by a method and cast. written: in the checkpoint's own dtype and orientation.

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
    """Of a matrix as it was solved; what its tensor shows is put in by `with_contents`.

    dead: inputs that were always zero. expert: how its expert fared, None for a matrix of no expert.
    """
    matrix, notes = target.matrix, dict(solved.solution.notes)
    if dead:
        notes["dead_inputs"] = dead
    if target.overrides:
        notes["overrides"] = list(target.overrides)
    if expert is not None:
        notes["expert"] = expert.notes
    return MatrixRecord(
        matrix=matrix.name,
        rows=matrix.rows,
        columns=matrix.columns,
        weights=matrix.weights,
        zeros=0,
        sparsity=0.0,
        target=target.target,
        pattern=str(target.pattern),
        relative_error=solved.relative_error,
        held_out_error=solved.held_out_error,
        seconds=solved.seconds,
        solver=solved.method.solver,
        notes=notes,
    )


def tuned_record(record: MatrixRecord, notes: dict[str, Any]) -> MatrixRecord:
    """The record of a matrix after its block was tuned. notes: of the tuning. Errors are of what was solved: all
    matrices together are not there to keep each one's outputs."""
    return record.model_copy(update={"notes": record.notes | {"refine": notes}})


def refined(records: Iterable[Record]) -> dict[str, Any] | None:
    """Of a stage's matrices whose blocks were tuned: how many, how many of them kept that, and the mean loss on
    the windows held out before and after; None where none was."""
    notes = [record["notes"]["refine"] for record in records if "refine" in record["notes"]]
    if not notes:
        return None
    after = [each["after"] if each["kept"] else each["before"] for each in notes]
    kept = sum(each["kept"] for each in notes)
    means = {"before": mean([each["before"] for each in notes]), "after": mean(after)}
    return {"matrices": len(notes), "kept": kept, **means}


def with_contents(record: MatrixRecord, target: WeightTarget, contents: Contents) -> MatrixRecord:
    """The record with what the tensor shows as it is written."""
    zeros = record.weights - contents.kept
    found: dict[str, Any] = {name: getattr(contents, name) for name in FINGERPRINTS}
    found |= {"zeros": zeros, "sparsity": zeros / record.weights}
    if zeros != target.zeros:
        # Zeros of the dense weights that the mask kept, or values too small for the dtype.
        found["notes"] = record.notes | {"zeros_beyond_mask": zeros - (target.zeros or 0)}
    return record.model_copy(update=found)


def compare_masks(record: MatrixRecord, now: Bits, then: Bits) -> MatrixRecord:
    """The record with what the mask has in common with the stage before's.

    now, then: the mask in both. Overlap is the Jaccard index of the sets of weights that are kept,
    |A ∩ B| / |A ∪ B|, and 1 where both are empty; the others are shares of all weights.
    """
    revived, pruned, united = count(now & ~then), count(then & ~now), count(now | then)
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
