"""Rules of webhooks: whom they may reach, how many there are, and what is sent once more."""

from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.delivery.announcements import ATTEMPTS
from app.kit.addresses import is_public, literal
from app.kit.ids import Prefix, new_id
from app.kit.problems import FieldError, Invalid, NotFound, Problem, exists
from app.settings import Settings
from app.tables.webhooks import DeliveryState, Webhook, WebhookAttempt, WebhookDelivery
from app.webhooks import repository
from app.webhooks.schemas import PingData, PingMessage, WebhookCreate, WebhookPatch
from app.webhooks.switching import disable, enable, forgive

MOST: Final = 20
"""Webhooks of one project."""


class WebhookNotFound(NotFound):
    code, title = "webhook_not_found", "There is no such webhook"


class DeliveryNotFound(NotFound):
    code, title = "delivery_not_found", "There is no such delivery"


class WebhookDisabled(Problem):
    status, code, title = 409, "webhook_disabled", "The webhook is disabled; enable it first"


class TooManyWebhooks(Problem):
    status, code, title = 409, "too_many_webhooks", f"A project has at most {MOST} webhooks"


class ReceiverRefused(Invalid):
    code, title = "receiver_refused", "Webhooks are not sent to this address"


def create(session: Session, project: str, body: WebhookCreate, settings: Settings) -> Webhook:
    """Raises ReceiverRefused, TooManyWebhooks."""
    _check_receiver(body.url, settings)
    if repository.count(session, project) >= MOST:
        raise TooManyWebhooks
    webhook = Webhook(id=new_id(Prefix.webhook), project_id=project, **body.model_dump(mode="json"))
    session.add(webhook)
    session.flush()
    session.refresh(webhook)
    return webhook


def read(session: Session, project: str, id: str) -> Webhook:
    """Raises WebhookNotFound, also for another project's."""
    return exists(repository.find(session, project, id), WebhookNotFound)


def change(session: Session, project: str, id: str, patch: WebhookPatch, settings: Settings) -> Webhook:
    """Raises WebhookNotFound, ReceiverRefused."""
    webhook = exists(repository.lock(session, project, id), WebhookNotFound)
    given = patch.model_dump(mode="json", exclude_unset=True)
    if "url" in given:
        _check_receiver(given["url"], settings)
        forgive(webhook)
    enabled = given.pop("enabled", None)
    for name, value in given.items():
        setattr(webhook, name, value)
    if enabled is True:
        enable(webhook)
    elif enabled is False:
        disable(session, webhook)
    webhook.updated_at = func.now()
    return _refreshed(session, webhook)


def delete(session: Session, project: str, id: str) -> None:
    """With its deliveries; one that is under way may still arrive. Raises WebhookNotFound."""
    repository.delete_webhook(session, exists(repository.lock(session, project, id), WebhookNotFound))


def rotate(session: Session, project: str, id: str, keep_hours: float) -> Webhook:
    """Make a new secret; the one before signs for so long, too. Raises WebhookNotFound."""
    webhook = exists(repository.lock(session, project, id), WebhookNotFound)
    webhook.secret_version += 1
    webhook.previous_secret_until = func.now() + timedelta(hours=keep_hours) if keep_hours > 0 else None
    webhook.updated_at = func.now()
    return _refreshed(session, webhook)


def ping(session: Session, project: str, id: str) -> WebhookDelivery:
    """Send a message that only tries the webhook, at once. Raises WebhookNotFound, WebhookDisabled."""
    webhook = _enabled(session, project, id)
    message = PingMessage(timestamp=session.scalars(select(func.now())).one(), data=PingData(webhook=webhook.id))
    delivery = WebhookDelivery(
        id=new_id(Prefix.delivery),
        webhook_id=webhook.id,
        type=message.type,
        body=message.model_dump_json(),
        attempts_allowed=1,
    )
    session.add(delivery)
    session.flush()
    session.refresh(delivery)
    return delivery


def redeliver(
    session: Session, project: str, id: str, delivery_id: str
) -> tuple[WebhookDelivery, WebhookAttempt | None]:
    """Send it again as what it was, at once; also its last attempt so far.

    Raises WebhookNotFound, DeliveryNotFound, WebhookDisabled.
    """
    webhook = _enabled(session, project, id)
    delivery = exists(repository.lock_delivery(session, webhook.id, delivery_id), DeliveryNotFound)
    if delivery.held_until is None:
        if delivery.state != DeliveryState.pending:
            delivery.attempts_allowed = delivery.attempts + ATTEMPTS
        delivery.state = DeliveryState.pending
        delivery.finished_at = None
        delivery.available_at = func.now()
        session.flush()
        session.refresh(delivery)
    return delivery, session.get(WebhookAttempt, (delivery.id, delivery.attempts))


def read_delivery(
    session: Session, project: str, id: str, delivery_id: str
) -> tuple[WebhookDelivery, list[WebhookAttempt]]:
    """With all attempts. Raises WebhookNotFound, DeliveryNotFound."""
    webhook = read(session, project, id)
    delivery = exists(repository.find_delivery(session, webhook.id, delivery_id), DeliveryNotFound)
    return delivery, list(repository.attempts(session, delivery.id))


def _enabled(session: Session, project: str, id: str) -> Webhook:
    """Locked, and to be tried at once whatever it failed at before."""
    webhook = exists(repository.lock(session, project, id), WebhookNotFound)
    if not webhook.enabled:
        raise WebhookDisabled
    webhook.available_at = func.now()
    return webhook


def _refreshed(session: Session, webhook: Webhook) -> Webhook:
    session.flush()
    session.refresh(webhook)
    return webhook


def _check_receiver(url: str, settings: Settings) -> None:
    """What can be told without a name server; the sender looks at the rest. Raises ReceiverRefused."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not settings.webhook_http:
        raise _refused("must begin with https://")
    address = literal(parts.hostname or "")
    if address is not None and not is_public(address, settings.webhook_networks):
        raise _refused("is not an address of the public internet")


def _refused(detail: str) -> ReceiverRefused:
    return ReceiverRefused(errors=[FieldError(detail, pointer="/url")])
