"""The SQL of the outbox."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.tables.outbox import OutboxMessage
from secateur.backoff import Backoff

BATCH: Final = 100
HOLD_SECONDS: Final = 10
"""For so long a taken message is not offered to another dispatcher; when its taker dies, it waits for so long."""
BACKOFF: Final = Backoff(1.0, longest=15.0)
KEPT_SECONDS: Final = 86_400


_NOTIFIED = text(
    "UPDATE jobs SET notified_at = now(), notifications = notifications + 1"
    " WHERE id = ANY(:hints) AND state = 'queued'"
)


def take(session: Session) -> Sequence[OutboxMessage]:
    """Messages to publish now, in the order they were written. They come back if nobody marks them."""
    due = (
        select(OutboxMessage.id)
        .where(OutboxMessage.published_at.is_(None), OutboxMessage.available_at <= func.now())
        .order_by(OutboxMessage.id)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(OutboxMessage)
        .where(OutboxMessage.id.in_(due.scalar_subquery()))
        .values(available_at=from_now(HOLD_SECONDS), attempts=OutboxMessage.attempts + 1)
        .returning(OutboxMessage)
        .execution_options(synchronize_session=False)
    )
    messages = sorted(session.scalars(statement).all(), key=lambda message: message.id)
    # Noted before the message is sent: a worker answers within milliseconds, and its claim passes over a job whose
    # row somebody holds.
    session.execute(_NOTIFIED, {"hints": [message.hint for message in messages if message.attempts == 1]})
    return messages


def mark_published(session: Session, messages: Sequence[OutboxMessage]) -> None:
    """These have reached the broker."""
    if messages:
        ids = [message.id for message in messages]
        session.execute(update(OutboxMessage).where(OutboxMessage.id.in_(ids)).values(published_at=func.now()))


def put_off(session: Session, messages: Sequence[OutboxMessage]) -> None:
    """These have not; try again soon, later each time."""
    for message in messages:
        again = from_now(BACKOFF.after(message.attempts))
        session.execute(update(OutboxMessage).where(OutboxMessage.id == message.id).values(available_at=again))


def forget_published(session: Session) -> int:
    """Delete rows that were published more than a day ago."""
    statement = delete(OutboxMessage).where(OutboxMessage.published_at < from_now(-KEPT_SECONDS))
    result: Any = session.execute(statement)
    return int(result.rowcount)
