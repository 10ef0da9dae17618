"""What a project's webhooks are told: deliveries, written in the transaction of the event."""

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, String, any_, bindparam, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.jobs.schemas import EventRead, FailureRead, ResultRead
from app.kit.ids import Prefix, new_id
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobEvent
from app.tables.states import State
from app.tables.webhooks import Webhook, WebhookDelivery
from secateur.spec.records.history import Phase

ATTEMPTS: Final = 16
"""Over about a day; see app/webhooks/deliveries.py."""


class JobSummary(BaseModel):
    """The job as it was right after the event."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    object: Literal["job"] = "job"
    state: State
    phase: Phase | None
    method: str
    model: str
    labels: dict[str, str]
    priority: int
    attempts: int
    retry_of: str | None
    continues: str | None
    lineage: str
    failure: FailureRead | None
    result: ResultRead | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> "JobSummary":
        """From its row."""
        own = {name: getattr(job, name) for name in cls.model_fields.keys() - {"object", "model"}}
        return cls.model_validate(own | {"model": job.model_id})


class EventData(BaseModel):
    """What a message about a job carries."""

    job: JobSummary
    event: EventRead = Field(
        description="As `GET /v1/jobs/{id}/events` has it. `seq` puts a job's messages in order."
    )


class JobMessage(BaseModel):
    """The body of a webhook's request about a job."""

    type: str = Field(description="`job.` and the event's type.", examples=["job.transition"])
    timestamp: datetime = Field(description="When it happened, not when it was sent.")
    data: EventData


_HOOKS: Final[Any] = Webhook.__table__.c


def _absent_or_has(column: Any, name: str) -> ColumnElement[bool]:
    return or_(column.is_(None), bindparam(name, type_=String) == any_(column))


_WANTING: Final = (
    select(_HOOKS.id)
    .where(
        _HOOKS.project_id == bindparam("project"),
        _HOOKS.enabled,
        _absent_or_has(_HOOKS.events, "event"),
        _absent_or_has(_HOOKS.states, "state"),
        bindparam("labels", type_=JSONB).contains(_HOOKS.labels),
    )
    .order_by(_HOOKS.id)
    .with_for_update(read=True, key_share=True)
)
"""Made once: it is asked with every event of every job."""


def announce(session: Session, job: Job, event: JobEvent) -> None:
    """Write a delivery for each of the project's webhooks that wants the event.

    They are locked against deletion, and against nothing else, so that the caller's transaction cannot fail by it.
    """
    given = {"project": job.project_id, "event": event.type, "state": job.state, "labels": job.labels}
    webhooks = session.scalars(_WANTING, given).all()
    if not webhooks:
        return
    session.flush()
    body = message_of(job, event).model_dump_json()
    session.add_all(
        WebhookDelivery(
            id=new_id(Prefix.delivery),
            webhook_id=webhook,
            type=f"job.{EventType(event.type)}",
            job_id=job.id,
            seq=event.seq,
            body=body,
            attempts_allowed=ATTEMPTS,
        )
        for webhook in webhooks
    )


def message_of(job: Job, event: JobEvent) -> JobMessage:
    """job: as it is after the event."""
    data = EventData(job=JobSummary.of(job), event=EventRead.model_validate(event))
    return JobMessage(type=f"job.{EventType(event.type)}", timestamp=event.at, data=data)
