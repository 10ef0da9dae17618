"""Switching a webhook off and on."""

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.tables.webhooks import DeliveryState, Webhook, WebhookDelivery


def disable(session: Session, webhook: Webhook, reason: str | None = None) -> None:
    """Send nothing more, and skip what waits. reason: why the service did it; None when its owner did."""
    webhook.enabled = False
    webhook.disabled_reason = reason
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.state == DeliveryState.pending)
        .values(state=DeliveryState.skipped, held_until=None, finished_at=func.now())
        .execution_options(synchronize_session="fetch")
    )


def enable(webhook: Webhook) -> None:
    """Send again, and at once: what it failed at before is forgotten."""
    webhook.enabled = True
    webhook.disabled_reason = None
    forgive(webhook)


def forgive(webhook: Webhook) -> None:
    """Its owner says that it works again."""
    webhook.failures = 0
    webhook.failing_since = None
    webhook.available_at = func.now()
