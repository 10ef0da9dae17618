"""What keeps the deliveries from growing without end, whatever happens at the receivers or in the jobs."""

from typing import Any, Final

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.tables.webhooks import Webhook, WebhookDelivery
from app.webhooks.switching import disable

MOST_PENDING: Final = 10_000
"""Deliveries that may wait for one webhook; more is a receiver that cannot keep up, or a flood."""
MOST_KEPT: Final = 10_000
"""Finished deliveries that one webhook's log has, however new they are."""
BATCH: Final = 10_000
"""Rows that one round drops at the most."""

_OVERRUN: Final = text("""
    SELECT w.id FROM webhooks w
    WHERE w.enabled AND (SELECT count(*) FROM (
        SELECT FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.state = 'pending' LIMIT :most + 1
    ) waiting) > :most
    FOR NO KEY UPDATE OF w SKIP LOCKED
""")
# Of those that were sent to lately: no other log has grown.
_TOO_MANY: Final = text("""
    DELETE FROM webhook_deliveries WHERE id IN (
        SELECT d.id FROM webhooks w CROSS JOIN LATERAL (
            SELECT id FROM webhook_deliveries
            WHERE webhook_id = w.id AND finished_at IS NOT NULL
            ORDER BY created_at DESC, id DESC OFFSET :most LIMIT :batch
        ) d
        WHERE w.taken_at > now() - interval '10 minutes' LIMIT :batch
    )
""")


def forget(session: Session, days: float) -> int:
    """Drop deliveries that ended before that, and those that are too many; how many."""
    old = select(WebhookDelivery.id).where(WebhookDelivery.finished_at < from_now(-86_400 * days)).limit(BATCH)
    aged: Any = session.execute(delete(WebhookDelivery).where(WebhookDelivery.id.in_(old.scalar_subquery())))
    many: Any = session.execute(_TOO_MANY, {"most": MOST_KEPT, "batch": BATCH})
    return int(aged.rowcount) + int(many.rowcount)


def disable_overrun(session: Session) -> int:
    """Disable webhooks for which too many deliveries wait, with a note; how many."""
    ids = session.scalars(_OVERRUN, {"most": MOST_PENDING}).all()
    for id in ids:
        disable(session, session.get_one(Webhook, id), f"More than {MOST_PENDING} deliveries waited for it.")
    return len(ids)
