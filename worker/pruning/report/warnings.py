"""What a user should know about a result unasked: said while the job runs, and kept in its summary."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from secateur.spec.job import Domain
from secateur.spec.records.history import JobWarning
from secateur.spec.records.tasks import TaskScores
from worker.pruning.calibration.expert_fallback import expert_fallback
from worker.pruning.calibration.overlap import shared_shares
from worker.pruning.calibration.windows import CalibrationWindows
from worker.pruning.evaluation.losses import TestSet
from worker.pruning.model.inspection import SPARSE, Sparsity
from worker.pruning.report.records import Record, mask_overlap, refined
from worker.pruning.request import PruningJob
from worker.pruning.targets.budget import WeightTarget
from worker.pruning.tasks.ready import ReadyTask

FORGETTING: Final = 0.05
"""BWT on log-perplexity above which it is said: perplexities on earlier domains rose by a twentieth."""
OVERLAP: Final = 0.01
"""Share of either text's tokens inside runs that the other has too, above which it is said."""

ALIKE: Final = 0.5
"""Share of the held-out windows' tokens that are different places of the text, below which it is said."""
ALIKE_MESSAGE: Final = (
    "held-out windows lie over one another, so held-out errors come from very little text: give more of it"
)

SPARSER: Final = 0.001
"""Zeros beyond the target, as a share of all weights, above which it is said."""


def already_sparse(found: Sparsity, *, keep_zeros: bool) -> list[JobWarning]:
    """A model that came with many zeros. found: in all of its prunable matrices; keep_zeros: the job's."""
    if found.share < SPARSE:
        return []
    message = "the model is sparse already: its zeros count towards the target, and "
    message += "stay" if keep_zeros else "may get other values; sparsity.keep_zeros keeps them"
    pattern = None if found.pattern is None else str(found.pattern)
    figures = {"share": found.share, "pattern": pattern, "matrices": found.matrices, "of": found.of}
    return [JobWarning(code="already_sparse", message=message, data=figures)]


def before_pruning(
    job: PruningJob,
    shares: Mapping[str, WeightTarget],
    windows: Sequence[CalibrationWindows],
    sets: Sequence[TestSet],
) -> list[JobWarning]:
    """What the texts alone say. windows: by domain."""
    few = (_too_few_tokens(job, *each, shares) for each in zip(job.domains, windows, strict=True))
    return [
        *(warning for warning in few if warning is not None),
        *_judged_by_what_is_solved_on(job.domains, windows),
        *_overlaps(job.domains, windows, sets),
    ]


def after_stage(stage: int, domain: str, records: Sequence[Record]) -> list[JobWarning]:
    """What a finished stage's records say."""
    found = (
        expert_fallback(stage, domain, records),
        masks_unchanged(stage, domain, mask_overlap(records)),
        _sparser_than_asked(stage, domain, records),
        _not_refined(stage, domain, records),
    )
    return [warning for warning in found if warning is not None]


def after_pruning(bwt: float | None, log_bwt: float | None) -> list[JobWarning]:
    """What the figures of the finished job say."""
    if log_bwt is None or log_bwt <= FORGETTING:
        return []
    message = "perplexity on the earlier domains' texts has risen since they were pruned for"
    figures = {"bwt": bwt, "log_bwt": log_bwt, "limit": FORGETTING}
    return [JobWarning(code="forgetting", message=message, data=figures)]


def before_tasks(tasks: Sequence[ReadyTask]) -> list[JobWarning]:
    """Tasks that cannot be asked, told before anything is pruned."""
    return [
        JobWarning(
            code="task_failed",
            message=f"the task {each.asked.name} cannot be asked, and the job goes on without it: {each.error}",
            data={"task": each.number},
        )
        for each in tasks
        if each.error is not None
    ]


def after_tasks(scores: Sequence[TaskScores]) -> list[JobWarning]:
    """Tasks without figures, and why; and which inputs were cut."""
    cut = [each for each in scores if each.truncated]
    found = [
        JobWarning(
            code="task_failed",
            message=f"the task {each.name} has no figures of the {each.model} model: {each.error}",
            data={"task": each.task, "model": each.model},
        )
        for each in scores
        if each.error is not None
    ]
    if cut:
        inputs = sum(each.truncated or 0 for each in cut)
        message = f"{inputs} inputs of tasks were longer than {cut[0].max_tokens} tokens and lost their beginning"
        data = {"tasks": sorted({each.name for each in cut}), "inputs": inputs}
        found.append(JobWarning(code="tasks_truncated", message=message, data=data))
    return found


def _sparser_than_asked(stage: int, domain: str, records: Sequence[Record]) -> JobWarning | None:
    """Matrices that had more zeros than their part of the target."""
    weights, zeros = (sum(record[name] for record in records) for name in ("weights", "zeros"))
    parts = [(record["zeros"], round(record["target"] * record["weights"])) for record in records]
    wanted = sum(part for _, part in parts)
    if zeros - wanted <= SPARSER * weights:
        return None
    message = "matrices have more zeros than their part of the target, because they came with them"
    data = {"stage": stage, "domain": domain, "sparsity": zeros / weights, "target": wanted / weights}
    data["matrices"] = sum(found > part for found, part in parts)
    return JobWarning(code="sparser_than_asked", message=message, data=data)


def _not_refined(stage: int, domain: str, records: Sequence[Record]) -> JobWarning | None:
    """No tuning that was asked for was of use."""
    found = refined(records)
    if found is None or found["kept"]:
        return None
    message = "tuning made nothing better on the windows held out, so that all weights are as they were solved"
    return JobWarning(code="not_refined", message=message, data={"stage": stage, "domain": domain})


def _too_few_tokens(
    job: PruningJob, domain: Domain, windows: CalibrationWindows, shares: Mapping[str, WeightTarget]
) -> JobWarning | None:
    """A Gram of fewer tokens than inputs is singular: whatever is solved with it fits the text only."""
    methods = {
        share.matrix: job.method.named(share.method) for share in shares.values() if share.zeros is not None
    }
    looked_at = [matrix for matrix, method in methods.items() if method.scores_inputs or method.updates_weights]
    widest = max(looked_at, key=lambda matrix: matrix.columns, default=None)
    if widest is None or windows.covered >= widest.columns:
        return None
    message = "too little calibration text: fewer of its tokens are solved on than the widest matrix has inputs"
    figures = {"domain": domain.name, "tokens": windows.covered, "inputs": widest.columns, "matrix": widest.name}
    return JobWarning(code="too_few_tokens", message=message, data=figures)


def _judged_by_what_is_solved_on(
    domains: Sequence[Domain], windows: Sequence[CalibrationWindows]
) -> Iterator[JobWarning]:
    message = "held-out windows share tokens with those solved on, so held-out errors are too good: give more text"
    for domain, own in zip(domains, windows, strict=True):
        if own.overlap:
            yield JobWarning(
                code="held_out_overlaps", message=message, data={"domain": domain.name, "share": own.overlap}
            )
        elif own.judged_by < ALIKE * own.judging:
            figures = {"domain": domain.name, "tokens": own.judged_by, "of": own.judging}
            yield JobWarning(code="held_out_alike", message=ALIKE_MESSAGE, data=figures)


def _overlaps(
    domains: Sequence[Domain], windows: Sequence[CalibrationWindows], sets: Sequence[TestSet]
) -> Iterator[JobWarning]:
    message = "calibration text is in an evaluation text too: its perplexity is not that of unseen text"
    every = [own.every for own in windows]
    for item in sets:
        for domain, shared in zip(domains, shared_shares(every, item.text), strict=True):
            if max(shared) > OVERLAP:
                figures = {"calibration": domain.name, "evaluation": item.domain}
                shares = {"share": shared.of_windows, "evaluation_share": shared.of_text}
                yield JobWarning(code="texts_overlap", message=message, data=figures | shares)


UNCHANGED_ABOVE: Final = 0.999
"""Overlap of a stage's masks with the stage before's above which it is said."""


def masks_unchanged(stage: int, domain: str, overlap: float | None) -> JobWarning | None:
    """overlap: of the whole stage, None in a first one."""
    if overlap is None or overlap <= UNCHANGED_ABOVE:
        return None
    message = "the masks are nearly those of the stage before: this domain has changed next to nothing"
    data = {"stage": stage, "domain": domain, "mask_overlap": overlap, "limit": UNCHANGED_ABOVE}
    return JobWarning(code="masks_unchanged", message=message, data=data)
