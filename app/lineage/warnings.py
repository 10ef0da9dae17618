"""What the owner of a continuation should know unasked; the engine's own warnings come beside these."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.delivery.events import append_event
from app.jobs import repository
from app.lineage import stages as lineage
from app.lineage.required_statistics import dropped, names_methods
from app.tables.datasets import Dataset
from app.tables.event_types import EventType
from app.tables.jobs import Job
from secateur.spec.records.history import JobWarning


def warnings_of(session: Session, job: Job) -> list[JobWarning]:
    """Of a job that continues another one; none of any other."""
    if job.continues is None:
        return []
    history = lineage.history_of(session, job)
    path = lineage.path_of(session, job)[:-1]
    return _of(session, path, job.spec, [domain for domain in history.domains if domain in history.lost])


def foreseen(session: Session, path: Sequence[Job], spec: dict[str, Any]) -> list[JobWarning]:
    """Of a job with this spec, were it made now to continue the last one of `path`; none without a path."""
    if not path:
        return []
    stages = [stage for stage in lineage.stages_of(path) if stage.evaluation is not None]
    there = set(session.scalars(select(Dataset.id).where(Dataset.id.in_([stage.evaluation for stage in stages]))))
    return _of(session, path, spec, [stage.domain for stage in stages if stage.evaluation not in there])


def note_warnings(session: Session, job: Job) -> None:
    """Say them in the job's history, when it is made."""
    for warning in warnings_of(session, job):
        note = {"level": "warning", "message": warning.message, "code": warning.code, **warning.data}
        append_event(session, job, EventType.note, note)


def _of(session: Session, path: Sequence[Job], spec: dict[str, Any], lost: list[str]) -> list[JobWarning]:
    """path: of the continued job. lost: earlier domains whose evaluation texts are gone."""
    return [
        *_lost(lost, gated=spec.get("gate") is not None),
        *_lost_tasks(session, path[-1], spec),
        *_dropped(session, path[-1], spec),
        *_calibrated_on(session, path, spec),
    ]


def _lost(domains: list[str], *, gated: bool) -> list[JobWarning]:
    """Rows of R of such domains stay as they are: what this job does to them, nobody will know."""
    message = "the evaluation texts of earlier domains were deleted; these are not measured any more"
    message += ", and the gate looks at the others alone" * gated
    return [JobWarning(code="evaluation_lost", message=message, data={"domains": domains})] if domains else []


def _lost_tasks(session: Session, parent: Job, spec: dict[str, Any]) -> list[JobWarning]:
    """The parent's whose questions were deleted, where its others are this job's."""
    before, now = parent.spec.get("tasks", []), spec.get("tasks", [])
    missing = [task for task in before if task not in now]
    wanted = [task.get("dataset") for task in missing]
    if not missing or None in wanted or now != [task for task in before if task in now]:
        return []
    if session.scalars(select(Dataset.id).where(Dataset.id.in_(wanted))).first() is not None:
        return []  # they were left out on purpose
    message = "the questions of tasks of the job before were deleted; these tasks are not done any more"
    return [JobWarning(code="tasks_lost", message=message, data={"tasks": [task["name"] for task in missing]})]


def _dropped(session: Session, parent: Job, spec: dict[str, Any]) -> list[JobWarning]:
    matrices = repository.matrix_methods(session, parent) if names_methods(spec) else ()
    kinds = dropped(parent.spec, spec, matrices)
    if not kinds:
        return []
    message = (
        f"the state of this job will not have all that its parent's has ({', '.join(kinds)}): what needs it can "
        "continue the parent, not this job or any after it"
    )
    return [JobWarning(code="statistics_dropped", message=message, data={"kinds": kinds, "parent": parent.id})]


def _calibrated_on(session: Session, path: Sequence[Job], spec: dict[str, Any]) -> list[JobWarning]:
    """Earlier calibration texts may be gone; their digests are in the manifests of the jobs that read them."""
    own = {domain["name"]: domain["evaluation"] for domain in spec["domains"] if domain.get("evaluation")}
    texts = session.execute(select(Dataset.id, Dataset.sha256).where(Dataset.id.in_(own.values())))
    digests = dict(texts.all())
    calibrated = lineage.calibration_digests(session, path) if own else []
    message = "the evaluation text is the file that an earlier domain was calibrated on: not that of unseen text"
    return [
        JobWarning(
            code="texts_overlap",
            message=message,
            data={"calibration": earlier, "evaluation": name, "same_file": True},
        )
        for name, evaluation in own.items()
        for earlier, digest in calibrated
        if digest is not None and digest == digests.get(evaluation)
    ]
