"""Continuing a job: what a continuation inherits, and why one is refused."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.datasets import repository as datasets
from app.delivery.object_keys import is_statistics
from app.jobs import repository
from app.jobs.service import JobNotFound, JobUnfinished
from app.kit.handlers import validation_problem
from app.kit.problems import FieldError, Invalid, Problem
from app.lineage import stages as lineage
from app.lineage.masks import check_masks
from app.lineage.required_statistics import lacking, names_methods
from app.lineage.stages import Stage
from app.models import repository as models
from app.tables.jobs import Job
from app.tables.states import TERMINAL, State
from secateur.spec.effort import PRESETS, Effort
from secateur.spec.gate import unmeasurable
from secateur.spec.job import NOT_IN_SPEC, JobContinue, JobCreate
from secateur.spec.partial import merge_method
from secateur.spec.sparsity import Sparsity

MAX_DOMAINS: Final = 256
"""Of a lineage: every stage is measured on every domain so far."""
EACH_JOBS_OWN: Final = frozenset({"further", "further_statistics"})
"""Of the sparsity, what is not one for a whole lineage."""


class NotContinuable(Problem):
    status, code, title = 409, "not_continuable", "No job can continue this one"


class LineageMismatch(Invalid):
    code, title = "lineage_mismatch", "The request does not fit the job that it continues"


@dataclass(frozen=True)
class Completed:
    """A request with everything in it that it left out."""

    asked: JobCreate
    parent: Job | None = None
    earlier: Sequence[Stage] = ()
    """Stages of the lineage before this job's."""
    inherits_gate: bool = False
    texts: frozenset[str] = frozenset()
    """Earlier domains' test texts that are still there."""

    @property
    def spec(self) -> dict[str, Any]:
        """Resolved: every default, and everything inherited, is written out."""
        resolved = self.asked.resolved()
        return resolved if self.parent is None else {**resolved, "continues": self.parent.id}


def complete(session: Session, project: str, body: JobCreate | JobContinue) -> Completed:
    """Fill in what a continuation leaves to its parent, whose row stays locked until the transaction ends.

    Raises JobNotFound, JobUnfinished, NotContinuable, LineageMismatch; Invalid for a gate that nothing
    can be measured against, and for masks of weights that nobody has.
    """
    path: Sequence[Job] = ()
    if isinstance(body, JobCreate):
        completed = Completed(body)
    else:
        found = repository.lock(session, project, body.continues)
        if found is None:
            raise JobNotFound(errors=[FieldError(f"there is no job {body.continues}", pointer="/continues")])
        parent = found[0]
        _refuse(parent)
        path = lineage.path_of(session, parent)
        earlier = lineage.stages_of(path)
        asked = _merge(session, project, body, parent, path, earlier)
        wanted = [each.evaluation for each in earlier if each.evaluation is not None]
        texts = frozenset(datasets.find_for_use(session, project, wanted))
        inherits_gate = "gate" not in body.model_fields_set
        completed = Completed(asked, parent, earlier, inherits_gate, texts)
    _check_gate(completed)
    check_masks(session, project, completed.asked, path)
    return completed


def _refuse(parent: Job) -> None:
    """Only a final state that was published can be continued."""
    state = State(parent.state)
    if state not in TERMINAL:
        detail = f"The job is {state}; it can be continued once it has succeeded."
        raise JobUnfinished(detail, extensions={"state": state})
    reason = None
    if parent.manifest is None:
        reason = f"It is {state} and has left no final state; retry it, and continue the retry."
    elif parent.spec["method"]["mode"] == "restart":
        reason = (
            "In mode restart no domain builds on the one before; submit the new domains as a job of their own."
        )
    elif not any(is_statistics(file["path"]) for file in parent.manifest["files"]):
        reason = "Its artifact has no state files; run it again, and continue that job."
    if reason is not None:
        raise NotContinuable(reason, extensions={"state": state})


def _merge(
    session: Session, project: str, body: JobContinue, parent: Job, path: Sequence[Job], earlier: Sequence[Stage]
) -> JobCreate:
    """The request over the parent's spec. Raises LineageMismatch."""
    inherited = {name: value for name, value in parent.spec.items() if name != "continues"}
    inherited["tasks"] = _tasks_there(session, project, parent)
    said = {"gate"} & body.model_fields_set | ({"tasks"} if body.tasks is not None else set())
    own = body.model_dump(mode="json", include={"domains", *said})
    merged = {**inherited, **own, **{name: getattr(body, name) for name in NOT_IN_SPEC}}
    # A place of the store is one job's: it is not inherited.
    merged["output"] = {**inherited.get("output", {}), "publish_to": None, **body.given("output")}
    effort = None if (began := inherited.get("effort")) is None else Effort(began)
    merged["sparsity"] = inherited["sparsity"] | _further(body, inherited["sparsity"], effort)
    merged["method"] = merge_method(inherited["method"], body.given("method"), effort)
    try:
        # What the lineage began with goes on, whatever its effort would mean by now.
        asked = JobCreate.model_validate(merged | {"effort": None}).model_copy(update={"effort": effort})
    except ValidationError as error:
        raise validation_problem(error, merged) from None
    matrices = repository.matrix_methods(session, parent) if names_methods(parent.spec) else ()
    errors = [
        *_differences(session, project, body, parent),
        *_names(body, earlier),
        *_length(body, earlier),
        *lacking([each.spec for each in path], asked.resolved(), matrices),
    ]
    if errors:
        raise LineageMismatch(errors=errors)
    return asked


def _tasks_there(session: Session, project: str, parent: Job) -> list[dict[str, Any]]:
    """The parent's tasks, without those whose questions were deleted: `warnings_of` says which."""
    tasks: list[dict[str, Any]] = parent.spec.get("tasks", [])
    found = datasets.find_for_use(session, project, [task["dataset"] for task in tasks if task.get("dataset")])
    return [task for task in tasks if not task.get("dataset") or task["dataset"] in found]


def _further(body: JobContinue, theirs: dict[str, Any], effort: Effort | None) -> dict[str, Any]:
    """The further targets and their statistics: as said, else the parent's (`theirs`, of its sparsity), where that
    had any, else as the effort has it."""
    given = body.given("sparsity")
    found = {name: given[name] for name in EACH_JOBS_OWN if given.get(name) is not None}
    if not found.get("further", theirs.get("further")):
        return {"further_statistics": None} | found
    if effort is not None and not theirs.get("further"):
        return {"further_statistics": PRESETS[effort].further_statistics} | found
    return found


def _differences(session: Session, project: str, body: JobContinue, parent: Job) -> list[FieldError]:
    """What must be one for a whole lineage and is not."""
    errors = []
    if body.model is not None and body.model != parent.model_id:
        errors.append(_differs("/model", body.model, parent.model_id))
    recorded = (parent.manifest or {})["provenance"].get("model", {}).get("digest")
    model = models.find_for_use(session, project, parent.model_id)
    if model is not None and recorded is not None and model.digest != recorded:
        errors.append(_differs("/model", f"of digest {model.digest} now", f"{recorded} when it was pruned"))
    for name, usual in (("numerics", "fast"), ("effort", None)):
        mine, theirs = getattr(body, name), parent.spec.get(name, usual)
        if mine is not None and mine != theirs:
            errors.append(_differs(f"/{name}", mine, theirs))
    # What a release before knew no field of was computed as its default has it.
    sparsity = Sparsity.model_validate(parent.spec["sparsity"]).model_dump(mode="json")
    for part in ("method", "sparsity", "evaluation"):
        given, theirs = body.given(part), sparsity if part == "sparsity" else parent.spec[part]
        for name in given.keys() - EACH_JOBS_OWN if part != "method" else given.keys() & {"mode"}:
            if given[name] is not None and given[name] != theirs.get(name):
                errors.append(_differs(f"/{part}/{name}", given[name], theirs.get(name)))
    return errors


def _differs(pointer: str, mine: Any, theirs: Any) -> FieldError:
    values = [json.dumps(value, ensure_ascii=False) for value in (mine, theirs)]
    return FieldError(f"is {values[0]}, and the lineage's is {values[1]}; leave it out", pointer=pointer)


def _names(body: JobContinue, earlier: Sequence[Stage]) -> list[FieldError]:
    """A domain has one column in a lineage's R."""
    stages = {each.domain: each.lineage_stage for each in earlier}
    return [
        FieldError(
            f"{domain.name!r} is the lineage's stage {stages[domain.name]} already; choose another name",
            pointer=f"/domains/{index}/name",
        )
        for index, domain in enumerate(body.domains)
        if domain.name in stages
    ]


def _length(body: JobContinue, earlier: Sequence[Stage]) -> list[FieldError]:
    """What is too long for a matrix R that grows with the square of its domains."""
    count = len(earlier) + len(body.domains)
    if count <= MAX_DOMAINS:
        return []
    detail = f"would make {count} domains in the lineage, and {MAX_DOMAINS} are the most; begin a new lineage"
    return [FieldError(detail, pointer="/domains")]


def _check_gate(completed: Completed) -> None:
    texts = [each.evaluation in completed.texts for each in completed.earlier]
    texts += [domain.evaluation is not None for domain in completed.asked.domains]
    found = unmeasurable(completed.asked.gate, texts, inherited=completed.inherits_gate)
    errors = [FieldError(message, pointer=f"/gate/{limit}") for limit, message in found.items()]
    if errors:
        raise Invalid(errors=errors)
