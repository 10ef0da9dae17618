"""A plan held against the workers there are: how many of each kind, and a refusal of what none of them holds."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from app.workers.registry import Kind
from secateur.spec.records.plan import HOST_PARTS, Estimates, Lack, PlanResult, WorkerFit
from worker.model_files.errors import IntakeError

GIB: Final = 2**30


class _Remedy(NamedTuple):
    """Where a large part of a need comes from, and what makes it smaller."""

    field: str
    fix: str


NO_HARNESS: Final = (
    "No worker that holds the job has the lm-evaluation-harness: leave `tasks` out, or ask the service's operator "
    "to install it there (the extra `tasks`)."
)
_MODEL: Final = _Remedy("/model", "choose a smaller model")
_METHOD: Final = _Remedy("/method", "choose a method that keeps less, such as wanda")
_REFINE: Final = _Remedy("/method/refine", "tune a block at a time (`refine: block`), or not at all")
_REMEDIES: Final = {
    "statistics": _METHOD,
    "solver": _METHOD,
    "state": _Remedy("/output", "keep less of each stage (`state_precision`, `keep_domain_statistics`)"),
    "stages_state": _Remedy("/output", "keep less of each stage (`state_precision`, `keep_domain_statistics`)"),
    "stages_weights": _Remedy("/domains", "prune for fewer domains in one job, and continue it"),
    "sensitivities": _Remedy("/output/keep_sensitivities", "do not keep the scores"),
    "hidden_states": _Remedy("/domains/0/calibration/samples", "take fewer calibration windows"),
    **dict.fromkeys(("tasks", "harness"), _Remedy("/tasks", "do the tasks elsewhere, with the artifact")),
    **dict.fromkeys(("tuning", "tuned_blocks", "stages_solved"), _REFINE),
    "survey": _Remedy("/sparsity/survey_tokens", "look at fewer tokens before pruning"),
    "activations": _Remedy("/domains/0/calibration/sequence_length", "take shorter windows"),
}
"""By the part of an estimate; every other one is the model's."""


def for_workers(plan: PlanResult, workers: Sequence[Kind]) -> PlanResult:
    """The plan, made for these workers' machines in their order, with how many there are of each kind.

    Raises IntakeError `fits_no_worker` when none of them holds the job.
    """
    if not workers:
        return plan
    fits = [
        fit.model_copy(update={"workers": kind.workers})
        for fit, kind in zip(plan.estimates.workers, workers, strict=True)
    ]
    estimates = plan.estimates.model_copy(update={"workers": fits})
    if not any(fit.fits for fit in fits):
        raise _refusal(estimates)
    return plan.model_copy(update={"estimates": estimates})


def _refusal(estimates: Estimates) -> IntakeError:
    """By the kind of worker that the estimates are for; as none holds the job, that is the largest."""
    fit = next(each for each in estimates.workers if each.kind == estimates.kind)
    lack = fit.lacks[0]
    if lack is Lack.harness:
        return IntakeError("fits_no_worker", NO_HARNESS, "/tasks")
    needed, there, parts = _compared(estimates, fit, lack)
    largest = max(parts, key=lambda name: parts[name])
    remedy = _REMEDIES.get(largest, _MODEL)
    message = (
        f"No worker holds the job: it needs {needed / GIB:.1f} GiB of {_WORDS[lack]}, the most of it for "
        f"{largest} ({parts[largest] / GIB:.1f} GiB), and the largest ({fit.kind}) has {there / GIB:.1f} GiB. To "
        f"make it smaller, {remedy.fix}; or ask the service's operator for a larger worker."
    )
    return IntakeError("fits_no_worker", message, remedy.field)


_WORDS: Final = {Lack.device_memory: "GPU memory", Lack.memory: "host memory", Lack.disk: "disk"}


def _compared(estimates: Estimates, fit: WorkerFit, lack: Lack) -> tuple[float, float, dict[str, float]]:
    """What is needed, what is there, and the parts of the need."""
    if lack is Lack.disk:
        return estimates.disk_bytes.total, fit.disk_bytes, estimates.disk_bytes.parts
    needs, parts = estimates.needs, estimates.memory_bytes.parts
    assert needs is not None  # noqa: S101 - every engine of today says them
    if lack is Lack.device_memory:
        return (
            needs.device_bytes,
            fit.device_bytes,
            {name: parts[name] for name in parts if name not in HOST_PARTS},
        )
    if fit.device == "cuda":
        return needs.host_bytes, fit.host_bytes, {name: parts[name] for name in parts if name in HOST_PARTS}
    return needs.memory_bytes, fit.host_bytes, parts
