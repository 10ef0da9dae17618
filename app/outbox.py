"""Notifying workers: a row in the caller's transaction, published by the dispatcher after the commit."""

from enum import StrEnum

from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.tables.outbox import OutboxMessage


class Queue(StrEnum):
    """Celery queues: one for what needs the accelerator, one for what does not, one for plans alone."""

    gpu = "gpu"
    cpu = "cpu"
    plan = "plan"
    """Plans are told of in `cpu` as well; a worker of this queue does nothing else, so no intake delays them."""


def notify(session: Session, queue: Queue, hint: str, after_seconds: float = 0) -> None:
    """Say that there may be work; `hint` is the id of the job or task it is about."""
    message = OutboxMessage(queue=queue, hint=hint)
    if after_seconds > 0:
        message.available_at = from_now(after_seconds)
    session.add(message)
