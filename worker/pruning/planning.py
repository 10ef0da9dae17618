"""What a job would do, found out without doing it."""

from typing import Any

from worker.pruning import skeleton as skeletons
from worker.pruning.budget import Share, assign
from worker.pruning.checkpoint import Checkpoint
from worker.pruning.errors import SpecError
from worker.pruning.skeleton import Skeleton
from worker.pruning.spec import PruningJob


def plan(job: PruningJob) -> dict[str, Any]:
    """Matched and skipped tensors with reasons, and the exact budget. Raises UserError when it cannot run."""
    checkpoint = Checkpoint.open(job.model)
    skeleton = skeletons.build(job.model, checkpoint)
    check_lengths(job, skeleton)
    return describe(skeleton, checkpoint, assign(skeleton.matrices, job.sparsity), job)


def check_lengths(job: PruningJob, skeleton: Skeleton) -> None:
    """Refuse windows longer than the model's positions."""
    longest = getattr(skeleton.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(longest, int):
        return
    lengths = {domain.calibration.field: domain.calibration.sequence_length for domain in job.domains}
    if any(domain.evaluation for domain in job.domains):
        lengths["/evaluation"] = job.evaluation.sequence_length
    for field, length in lengths.items():
        if length > longest:
            raise SpecError(
                f"{field}/sequence_length", f"must be at most {longest}, the model's max_position_embeddings"
            )


def describe(
    skeleton: Skeleton, checkpoint: Checkpoint, shares: dict[str, Share], job: PruningJob
) -> dict[str, Any]:
    matched: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = [
        {"name": name, "reason": reason, "weights": _count(checkpoint, name)}
        for name, reason in skeleton.skipped.items()
    ]
    for share in shares.values():
        matrix = share.matrix
        if share.zeros is None:
            reason = f"override {share.override} skips it"
            skipped.append({"name": matrix.name, "reason": reason, "weights": matrix.weights})
            continue
        matched.append(
            {
                "name": matrix.name,
                "rows": matrix.rows,
                "columns": matrix.columns,
                "weights": matrix.weights,
                "zeros": share.zeros,
                "target": share.target,
                "override": share.override,
            }
        )
    weights = sum(entry["weights"] for entry in matched)
    zeros = sum(entry["zeros"] for entry in matched)
    return {
        "architecture": type(skeleton.model).__name__,
        "blocks": len(skeleton.blocks),
        "pattern": str(job.sparsity.pattern),
        "comparison_group": job.method.scope.value,
        "matched": matched,
        "skipped": skipped,
        "weights": weights,
        "zeros": zeros,
        "sparsity": zeros / weights,
        "parameters": sum(_count(checkpoint, name) for name in checkpoint.tensors),
    }


def _count(checkpoint: Checkpoint, name: str) -> int:
    count = 1
    for side in checkpoint.tensors[name].shape:
        count *= side
    return count
