"""Webhooks: who is told of a project's jobs, and what was sent to them. No secret is stored."""

from enum import StrEnum

from sqlalchemy import CheckConstraint, Double, ForeignKey, Index, String, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Created, Id, Json, LongText, Moment


class Webhook(Base):
    """A receiver. Its secrets are derived from the service's by its id and `secret_version`."""

    __tablename__ = "webhooks"

    id: Mapped[Id]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    url: Mapped[str] = mapped_column(String(2000))
    description: Mapped[str] = mapped_column(String(200), default="")
    events: Mapped[list[str] | None] = mapped_column(ARRAY(String(40)))
    """Types that are sent; None for all."""
    states: Mapped[list[str] | None] = mapped_column(ARRAY(String(20)))
    """States in which the job is after the event; None for all."""
    labels: Mapped[Json] = mapped_column(default=dict)
    """All of them must be the job's."""
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_reason: Mapped[str | None] = mapped_column(String(200))
    """Why the service switched it off; None when its owner did."""
    secret_version: Mapped[int] = mapped_column(default=1)
    previous_secret_until: Mapped[Moment | None]
    """Until then the secret before this one signs, too."""
    failures: Mapped[int] = mapped_column(default=0)
    """Failed attempts since the last good one."""
    failing_since: Mapped[Moment | None]
    available_at: Mapped[Created]
    """Nothing is sent before: a receiver that fails is asked more and more rarely."""
    taken_at: Mapped[Created]
    """When a delivery was last taken; whoever waited longest comes first."""
    created_at: Mapped[Created]
    updated_at: Mapped[Created]
    """When its owner last changed it."""


class DeliveryState(StrEnum):
    """A delivery's life."""

    pending = "pending"
    succeeded = "succeeded"
    failed = "failed"
    """No attempt is left."""
    skipped = "skipped"
    """The webhook was disabled before it could be sent."""


class WebhookDelivery(Base):
    """One message for one webhook, written in the transaction of what it tells. Its id is the message's.

    A delivery that is held belongs to one sender until `held_until`; when that dies, it is due again.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'succeeded', 'failed', 'skipped')", name="state"),
        Index("ix_webhook_deliveries_list", "webhook_id", "created_at", "id"),
        Index(
            "ix_webhook_deliveries_due",
            "webhook_id",
            "available_at",
            "id",
            postgresql_where=text("state = 'pending'"),
        ),
        Index("ix_webhook_deliveries_held", "webhook_id", postgresql_where=text("held_until IS NOT NULL")),
        Index("ix_webhook_deliveries_finished_at", "finished_at"),
    )

    id: Mapped[Id]
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(String(60))
    job_id: Mapped[str | None] = mapped_column(String(40))
    seq: Mapped[int | None]
    """The event's number; deliveries of one job are put in order by it."""
    body: Mapped[LongText]
    """The bytes that are signed and sent, the same at every attempt."""
    state: Mapped[str] = mapped_column(String(20), default=DeliveryState.pending)
    attempts: Mapped[int] = mapped_column(default=0)
    attempts_allowed: Mapped[int]
    available_at: Mapped[Created]
    held_until: Mapped[Moment | None]
    created_at: Mapped[Created]
    finished_at: Mapped[Moment | None]


class WebhookAttempt(Base):
    """One try; written when it is taken, so that none is made twice. Without an end its sender was lost."""

    __tablename__ = "webhook_attempts"

    delivery_id: Mapped[str] = mapped_column(
        ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    started_at: Mapped[Created]
    seconds: Mapped[float | None] = mapped_column(Double)
    status: Mapped[int | None]
    """Of HTTP; None when there was no answer."""
    error: Mapped[str | None] = mapped_column(String(40))
    response: Mapped[LongText | None]
    """The beginning of the answer's body."""
