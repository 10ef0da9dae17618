"""What a job would do, found out without doing it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from secateur.spec.method import Method
from secateur.spec.records.pipe import Inspection
from secateur.spec.records.plan import SkippedTensor
from secateur.spec.sparsity import Allocation
from worker.pruning.allocation.allocate import comparison_group
from worker.pruning.calibration.copal_sums import check_reading
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.vocabulary import tokens_beyond_rows
from worker.pruning.errors import SpecError, UserError
from worker.pruning.fitting import estimates
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import ModelGraph, build_graph
from worker.pruning.model.inspection import inspect as read_all
from worker.pruning.model.positions import longest_input, positions
from worker.pruning.refine.norms import norms
from worker.pruning.report.warnings import already_sparse
from worker.pruning.request import PruningJob
from worker.pruning.subject import Subject
from worker.pruning.targets.budget import WeightTarget, assign
from worker.pruning.targets.overrides import overlaps, settle
from worker.pruning.tasks.ready import check_tasks


def plan(job: PruningJob) -> dict[str, Any]:
    """Matched and skipped tensors with reasons, overrides, the exact budget, and what it will take.

    Reads the model's configuration, headers and tokenizer, no weight, and of texts no more than tasks' questions.
    Raises UserError when it cannot run.
    """
    subject = look(job)
    tokenizer = Tokenizer(job.model)
    check_prefix(job, tokenizer)
    sizes = check_tasks(job, longest_input(subject.graph), tokenizer.count)
    subject = replace(subject, task_tokens=sizes)
    sparsity, shares, checkpoint = job.sparsity, subject.shares, subject.checkpoint
    matched = [_matched(job, share, shares) for share in shares.values() if share.zeros is not None]
    weights, zeros = (sum(entry[name] for entry in matched) for name in ("weights", "zeros"))
    return {
        "architecture": type(subject.graph.model).__name__,
        "blocks": len(subject.graph.blocks),
        "parameters": sum(each.numbers for each in checkpoint.tensors.values()),
        "prefix": list(tokenizer.prefix),
        "pattern": str(sparsity.pattern),
        "allocation": sparsity.allocation.value,
        "weights": weights,
        "zeros": zeros,
        "sparsity": zeros / weights,
        "matched": matched,
        "skipped": [each.model_dump() for each in skipped(subject)],
        **_overrides(subject),
        "estimates": estimates(subject).model_dump(),
        "warnings": [each.model_dump() for each in tokens_beyond_rows(subject.graph, tokenizer)],
    }


def inspect(folder: Path, check: Callable[[], None] = lambda: None) -> Inspection:
    """Whether a folder holds a model that can be pruned.

    Reads all weights, once; check: called before each tensor, may raise. Raises UserError when it cannot be pruned
    whatever the job.
    """
    checkpoint = Checkpoint.open(folder)
    graph = build_graph(folder, checkpoint)
    tokenizer = Tokenizer(folder)
    found = read_all(checkpoint, graph, check)
    said = [*already_sparse(found, keep_zeros=False), *tokens_beyond_rows(graph, tokenizer)]
    return Inspection(unused=sorted(graph.names.ignored), warnings=said)


def look(job: PruningJob) -> Subject:
    """The model's graph and the shares of its matrices. Raises UserError when the job cannot run."""
    checkpoint = Checkpoint.open(job.model)
    graph = build_graph(job.model, checkpoint)
    check_lengths(job, graph)
    shares = assign(graph.matrices, job.sparsity)
    for number, further in enumerate(job.sparsity.further):  # what cannot be met is refused before anything runs
        try:
            assign(graph.matrices, job.sparsity.at(further))
        except UserError as error:
            message = f"the further target {further} is not possible: {error.message}"
            raise UserError(error.code, message, f"/sparsity/further/{number}") from None
    check_reading(job.method, shares)
    return Subject(job, graph, checkpoint, shares)


def check_lengths(job: PruningJob, graph: ModelGraph) -> None:
    """Refuse windows longer than the model's positions."""
    for name, longest in positions(graph).items():
        for field, length in _lengths(job).items():
            if length > longest:
                raise SpecError(field, f"must be at most {longest}, the model's {name}")


def check_prefix(job: PruningJob, tokenizer: Tokenizer) -> None:
    """Refuse windows in which the tokenizer's prefix leaves no room for text."""
    for field, length in _lengths(job).items():
        tokenizer.room(length, field)


def _lengths(job: PruningJob) -> dict[str, int]:
    """Tokens of a window, by their field in the request."""
    lengths = {
        f"/domains/{number}/calibration/sequence_length": domain.calibration.sequence_length
        for number, domain in enumerate(job.domains)
    }
    if job.evaluated:
        lengths["/evaluation/sequence_length"] = job.evaluation.sequence_length
    return lengths


def _matched(job: PruningJob, share: WeightTarget, shares: dict[str, WeightTarget]) -> dict[str, Any]:
    """A matrix that is pruned. `settled` is false where the allocation will move its rate while the job runs."""
    method = job.method.named(share.method)
    return {
        "name": share.matrix.name,
        "rows": share.matrix.rows,
        "columns": share.matrix.columns,
        "weights": share.matrix.weights,
        "zeros": share.zeros,
        "target": share.target,
        "settled": share.fixed or job.sparsity.allocation is Allocation.uniform,
        "pattern": str(share.pattern),
        "comparison_group": comparison_group(job, method, shares).value,
        "solver": method.solver,
        "statistics": _statistics(method),
        "overrides": list(share.overrides),
    }


def _statistics(method: Method) -> list[str]:
    """What is summed over calibration tokens."""
    return ["input_norms"] * method.scores_inputs + sorted(method.statistics)


def skipped(subject: Subject) -> list[SkippedTensor]:
    """Tensors that are not pruned."""
    tuned = _tuned(subject)
    found = [
        SkippedTensor(
            name=name,
            reason=reason + ("; tuned with its block" if name in tuned else ""),
            weights=subject.checkpoint.tensors[name].numbers,
        )
        for name, reason in subject.graph.skipped.items()
    ]
    for share in subject.shares.values():
        if share.zeros is None:
            reason = f"skipped by the override {share.overrides[-1]}"
            found.append(SkippedTensor(name=share.matrix.name, reason=reason, weights=share.matrix.weights))
    return found


def _tuned(subject: Subject) -> set[str]:
    """Norms and biases that do not stay as they are."""
    refinement = subject.job.method.refinement
    if refinement is None or not refinement.norms:
        return set()
    blocks = (block for block in subject.graph.blocks if subject.pruned(block))
    return {name for block in blocks for name in norms(subject.graph, subject.checkpoint, block)}


def _overrides(subject: Subject) -> dict[str, Any]:
    """How many matrices each override matches and decides something about, and where several meet."""
    sparsity = subject.job.sparsity
    resolved = settle(subject.graph.matrices, sparsity)
    counted = [
        {
            "index": number,
            "says": override.says,
            "matches": sum(number in one.matched for one in resolved.values()),
            "decides": sum(number in one.deciding.values() for one in resolved.values()),
        }
        for number, override in enumerate(sparsity.overrides)
    ]
    met = [
        {"overrides": list(each.overrides), "winners": each.winners, "matrices": each.matrices}
        for each in overlaps(resolved)
    ]
    return {"overrides": counted, "overlaps": met}
