"""The SQL that makes a job: one statement for its row, what it reads, its stages, first event and notification."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ARRAY, Select, String, bindparam, exists, func, select
from sqlalchemy import insert as insert_into
from sqlalchemy.orm import Session

from app.jobs.documents import PROGRESS, Snapshot, job_columns
from app.kit.origin import current_origin
from app.outbox import Queue
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobDataset, JobEvent, JobProgress, JobStage
from app.tables.outbox import OutboxMessage
from app.tables.states import State
from app.tables.webhooks import Webhook

_JOBS: Final[Any] = Job.__table__
_GIVEN: Final = (
    *("id", "project_id", "model_id", "state", "method", "spec", "spec_digest", "labels", "priority", "continues"),
    *("lineage_id", "first_stage", "max_runtime_seconds", "max_pending_seconds", "origin"),
)
"""Columns that a new job does not have from its table's defaults."""
_ZERO: Final = ("attempts", "lost_attempts", "fence", "notifications")
_FIRST: Final = 1
"""Number of the event that says that the job was made, and of its first version."""


def _listed(name: str) -> Any:
    """The values of an array of texts, numbered from 1."""
    array = func.unnest(bindparam(name, type_=ARRAY(String)))
    return array.table_valued("value", with_ordinality="number").render_derived()


def _statement() -> Select[*tuple[Any, ...]]:
    given = {name: bindparam(f"job_{name}", type_=_JOBS.c[name].type) for name in _GIVEN}
    given |= {name: bindparam(f"zero_{name}", 0) for name in _ZERO}
    first: dict[str, Any] = {name: bindparam(f"first_{name}", _FIRST) for name in ("version", "last_event")}
    job = insert_into(_JOBS).values(given | first).returning(*_JOBS.c).cte("made")
    texts, stages = _listed("texts"), _listed("stages")
    id = given["id"]
    others = (
        insert_into(JobDataset).from_select(["job_id", "dataset_id"], select(id, texts.c.value)),
        insert_into(JobStage).from_select(
            ["job_id", "stage", "domain", "state"],
            select(id, stages.c.number - 1, stages.c.value, bindparam("stage_state", "pending", String)),
        ),
        insert_into(JobEvent).values(job_id=id, seq=_FIRST, type=EventType.created, data={"state": State.queued}),
        insert_into(OutboxMessage).values(queue=Queue.gpu, hint=id, attempts=0, origin=given["origin"]),
    )
    progress = JobProgress.__table__
    shown = select(*job_columns(job.c), *PROGRESS).outerjoin_from(job, progress, progress.c.job_id == job.c.id)
    hooks: Any = Webhook.__table__.c
    heard = exists().where(hooks.project_id == given["project_id"], hooks.enabled)
    return shown.add_columns(heard).add_cte(*(each.cte(f"other_{number}") for number, each in enumerate(others)))


_MAKE: Final = _statement()


def insert(session: Session, job: Job, texts: Sequence[str], stages: Sequence[str]) -> tuple[Snapshot, bool]:
    """Write a new job, and say whether a webhook of the project may want to hear of it.

    texts: ids of what it reads. stages: their names, see `Pruning.stage_names`.
    """
    values = {f"job_{name}": getattr(job, name) for name in _GIVEN} | {"job_origin": current_origin()}
    row = session.execute(_MAKE, {**values, "texts": list(texts), "stages": list(stages)}).one()
    return Snapshot.of(row[:-1]), bool(row[-1])
