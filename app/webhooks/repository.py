"""SQL of webhooks and of their log; `_owned` is the one place where the tenant comes in."""

from collections.abc import Sequence

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from app.kit.pagination import Listing
from app.tables.auth import Project
from app.tables.webhooks import DeliveryState, Webhook, WebhookAttempt, WebhookDelivery


def _owned(project: str) -> Select[Webhook]:
    return select(Webhook).where(Webhook.project_id == project)


def find(session: Session, project: str, id: str) -> Webhook | None:
    """The project's webhook of that id."""
    return session.scalars(_owned(project).where(Webhook.id == id)).one_or_none()


def lock(session: Session, project: str, id: str) -> Webhook | None:
    """The same, its row locked until the transaction ends."""
    query = _owned(project).where(Webhook.id == id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def listing(project: str) -> Listing:
    """The project's webhooks, newest first."""
    return Listing(_owned(project), (Webhook.created_at, Webhook.id), newest_first=True)


def count(session: Session, project: str) -> int:
    """How many the project has; nobody else adds one before the transaction ends."""
    session.execute(select(Project.id).where(Project.id == project).with_for_update(key_share=True))
    return session.scalar(select(func.count()).where(Webhook.project_id == project)) or 0


def delete_webhook(session: Session, webhook: Webhook) -> None:
    """Remove it with its deliveries."""
    session.execute(delete(Webhook).where(Webhook.id == webhook.id))


def deliveries(webhook: str, state: DeliveryState | None) -> Listing:
    """What was written for it, newest first, each with its last attempt."""
    query = (
        select(WebhookDelivery, WebhookAttempt)
        .outerjoin(
            WebhookAttempt,
            (WebhookAttempt.delivery_id == WebhookDelivery.id)
            & (WebhookAttempt.number == WebhookDelivery.attempts),
        )
        .where(WebhookDelivery.webhook_id == webhook)
    )
    if state is not None:
        query = query.where(WebhookDelivery.state == state)
    return Listing(query, (WebhookDelivery.created_at, WebhookDelivery.id), newest_first=True)


def lock_delivery(session: Session, webhook: str, id: str) -> WebhookDelivery | None:
    """The webhook's delivery of that id, its row locked until the transaction ends."""
    mine = (WebhookDelivery.webhook_id == webhook, WebhookDelivery.id == id)
    return session.scalars(select(WebhookDelivery).where(*mine).with_for_update(key_share=True)).one_or_none()


def find_delivery(session: Session, webhook: str, id: str) -> WebhookDelivery | None:
    """The webhook's delivery of that id."""
    mine = (WebhookDelivery.webhook_id == webhook, WebhookDelivery.id == id)
    return session.scalars(select(WebhookDelivery).where(*mine)).one_or_none()


def attempts(session: Session, delivery: str) -> Sequence[WebhookAttempt]:
    """All attempts of a delivery, in order."""
    query = select(WebhookAttempt).where(WebhookAttempt.delivery_id == delivery)
    return session.scalars(query.order_by(WebhookAttempt.number)).all()
