"""What the owner of a continuation should know unasked; the engine's own caveats come beside these."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from app.datasets.tables import Dataset
from app.jobs import lineage, repository
from app.jobs.events import EventType, append_event
from app.jobs.kinds import dropped, names_methods
from app.jobs.tables import Job

EVALUATION_LOST: Final = "evaluation_lost"
STATISTICS_DROPPED: Final = "statistics_dropped"
TEXTS_OVERLAP: Final = "texts_overlap"


@dataclass(frozen=True)
class Caveat:
    """code: stable, for machines. data: the names behind it."""

    code: str
    message: str
    data: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "data": self.data}


def caveats_of(session: Session, job: Job) -> list[Caveat]:
    """Of a job that goes on from another one; none of any other."""
    if job.continues is None:
        return []
    parent = session.get_one(Job, job.continues, options=[defer(Job.manifest)])  # which can be large
    return [*_lost(session, job), *_dropped(session, job, parent), *_calibrated_on(session, job)]


def note_caveats(session: Session, job: Job) -> None:
    """Say them in the job's history, when it is made."""
    for caveat in caveats_of(session, job):
        note = {"level": "warning", "message": caveat.message, "code": caveat.code, **caveat.data}
        append_event(session, job, EventType.note, note)


def _lost(session: Session, job: Job) -> list[Caveat]:
    """Rows of R of such domains stay as they are: what this job does to them, nobody will know."""
    history = lineage.history_of(session, job)
    if not history.lost:
        return []
    message = "the evaluation texts of earlier domains were deleted; these are not measured any more"
    return [Caveat(EVALUATION_LOST, message, {"domains": [d for d in history.domains if d in history.lost]})]


def _dropped(session: Session, job: Job, parent: Job) -> list[Caveat]:
    places = repository.places(session, parent) if names_methods(job.spec) else ()
    kinds = dropped(parent.spec, job.spec, places)
    if not kinds:
        return []
    message = (
        f"the state of this job will not have all that its parent's has ({', '.join(kinds)}): what needs it can "
        "go on from the parent, and not from this job or any after it"
    )
    return [Caveat(STATISTICS_DROPPED, message, {"kinds": kinds, "parent": parent.id})]


def _calibrated_on(session: Session, job: Job) -> list[Caveat]:
    """Earlier calibration texts may be gone; their digests are in the manifests of the jobs that read them."""
    own = {domain["name"]: domain["evaluation"] for domain in job.spec["domains"] if domain.get("evaluation")}
    texts = session.execute(select(Dataset.id, Dataset.sha256).where(Dataset.id.in_(own.values())))
    digests = dict(texts.all())
    calibrated = lineage.calibration_digests(session, job) if own else []
    message = "the evaluation text is the file that an earlier domain was calibrated on: not that of unseen text"
    return [
        Caveat(TEXTS_OVERLAP, message, {"calibration": earlier, "evaluation": name, "same_file": True})
        for name, evaluation in own.items()
        for earlier, digest in calibrated
        if digest is not None and digest == digests.get(evaluation)
    ]
