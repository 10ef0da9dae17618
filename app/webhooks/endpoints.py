"""/v1/webhooks: who is told of the project's jobs, and what was sent to them."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response

from app.auth.dependencies import JobsRead, JobsWrite
from app.backend import Backend, BackendDep, UnitOfWork
from app.delivery.announcements import JobMessage
from app.idempotency.once import ONCE, Once
from app.kit.fields import DeliveryId, WebhookId
from app.kit.json_body import StrictRoute
from app.kit.pagination import Page, Paging
from app.kit.problems import UnsupportedMediaType, problems
from app.kit.replies import reply
from app.tables.webhooks import DeliveryState, Webhook
from app.webhooks import repository, service
from app.webhooks.schemas import (
    DeliveryRead,
    DeliveryWithAttempts,
    PingMessage,
    WebhookCreate,
    WebhookPatch,
    WebhookRead,
    WebhookWithSecret,
    with_attempts,
)
from app.webhooks.secrets import secret_of
from app.webhooks.service import (
    DeliveryNotFound,
    ReceiverRefused,
    TooManyWebhooks,
    WebhookDisabled,
    WebhookNotFound,
)

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=StrictRoute)
messages = APIRouter(tags=["webhooks"])
"""What receivers get: described in the document, served by nobody here."""


@router.post(
    "",
    summary="Make a webhook",
    status_code=201,
    response_model=WebhookWithSecret,
    responses=problems(ReceiverRefused, TooManyWebhooks, UnsupportedMediaType, *ONCE),
)
async def create_webhook(
    body: WebhookCreate, auth: JobsWrite, session: UnitOfWork, backend: BackendDep, once: Once
) -> Response:
    """From now on each event of the project's jobs that the filters let through is sent to the URL. `secret`
    verifies the signatures; it is shown here and after a rotation, and at no other time."""

    def create() -> Response:
        webhook = service.create(session, auth.project, body, backend.settings)
        return reply(_with_secret(webhook, backend), 201, {"Location": f"/v1/webhooks/{webhook.id}"})

    return await once.run(create, personal=True)


@router.get(
    "",
    summary="List webhooks, newest first",
    response_model=Page[WebhookRead],
    responses=problems(),
)
def list_webhooks(auth: JobsRead, session: UnitOfWork, page: Paging) -> Response:
    """One page of the project's webhooks, without their secrets."""
    return reply(page.page(session, repository.listing(auth.project), WebhookRead.model_validate))


@router.get(
    "/{id}",
    summary="Read a webhook",
    response_model=WebhookRead,
    responses=problems(WebhookNotFound),
)
def get_webhook(id: WebhookId, auth: JobsRead, session: UnitOfWork) -> Response:
    """`failing_since` and `disabled_reason` tell whether its receiver answers."""
    return reply(WebhookRead.model_validate(service.read(session, auth.project, id)))


@router.patch(
    "/{id}",
    summary="Change a webhook",
    response_model=WebhookRead,
    responses=problems(WebhookNotFound, ReceiverRefused, UnsupportedMediaType),
)
def change_webhook(
    id: WebhookId, body: WebhookPatch, auth: JobsWrite, session: UnitOfWork, backend: BackendDep
) -> Response:
    """What was written before is sent to the new URL. Disabling skips what waits; enabling begins anew."""
    webhook = service.change(session, auth.project, id, body, backend.settings)
    return reply(WebhookRead.model_validate(webhook))


@router.delete(
    "/{id}",
    summary="Delete a webhook",
    status_code=204,
    response_class=Response,
    responses=problems(WebhookNotFound),
)
def delete_webhook(id: WebhookId, auth: JobsWrite, session: UnitOfWork) -> Response:
    """With its deliveries; one that is under way may still arrive."""
    service.delete(session, auth.project, id)
    return Response(status_code=204)


@router.post(
    "/{id}/rotate",
    summary="Make a new secret",
    response_model=WebhookWithSecret,
    responses=problems(WebhookNotFound, *ONCE),
)
async def rotate_webhook_secret(
    id: WebhookId,
    auth: JobsWrite,
    session: UnitOfWork,
    backend: BackendDep,
    once: Once,
    keep_hours: Annotated[
        float, Query(ge=0, le=168, description="For so long the secret before this one signs, too.")
    ] = 24,
) -> Response:
    """Messages then carry two signatures, so that the receiver may change over when it likes. With 0 a secret that
    has leaked is worth nothing from the next attempt on."""

    def rotate() -> Response:
        return reply(_with_secret(service.rotate(session, auth.project, id, keep_hours), backend))

    return await once.run(rotate, personal=True)


@router.post(
    "/{id}/test",
    summary="Send a ping",
    status_code=202,
    response_model=DeliveryRead,
    responses=problems(WebhookNotFound, WebhookDisabled, *ONCE),
)
async def ping_webhook(id: WebhookId, auth: JobsWrite, session: UnitOfWork, once: Once) -> Response:
    """One attempt at a message of the type `webhook.ping`, whatever the filters say; the delivery tells what came
    of it."""

    def ping() -> Response:
        delivery = service.ping(session, auth.project, id)
        location = {"Location": f"/v1/webhooks/{id}/deliveries/{delivery.id}"}
        return reply(DeliveryRead.of(delivery, None), 202, location)

    return await once.run(ping)


@router.get(
    "/{id}/deliveries",
    summary="What was sent, newest first",
    response_model=Page[DeliveryRead],
    responses=problems(WebhookNotFound),
)
def list_deliveries(
    id: WebhookId, auth: JobsRead, session: UnitOfWork, page: Paging, state: DeliveryState | None = None
) -> Response:
    """Each with its last attempt. Those that ended are kept for some days."""
    webhook = service.read(session, auth.project, id)
    return reply(page.page(session, repository.deliveries(webhook.id, state), DeliveryRead.of))


@router.get(
    "/{id}/deliveries/{delivery}",
    summary="Read a delivery",
    response_model=DeliveryWithAttempts,
    responses=problems(WebhookNotFound, DeliveryNotFound),
)
def get_delivery(id: WebhookId, delivery: DeliveryId, auth: JobsRead, session: UnitOfWork) -> Response:
    """With all attempts and the body that is sent."""
    return reply(with_attempts(*service.read_delivery(session, auth.project, id, delivery)))


@router.post(
    "/{id}/deliveries/{delivery}/redeliver",
    summary="Send a delivery again",
    status_code=202,
    response_model=DeliveryRead,
    responses=problems(WebhookNotFound, DeliveryNotFound, WebhookDisabled),
)
def redeliver(id: WebhookId, delivery: DeliveryId, auth: JobsWrite, session: UnitOfWork) -> Response:
    """The same message with the same `webhook-id`, at once, and again a day of attempts. One that is just under
    way is left to itself."""
    return reply(DeliveryRead.of(*service.redeliver(session, auth.project, id, delivery)), 202)


_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    410: {"description": "The webhook is disabled"},
    "default": {"description": "The message is sent again later"},
}


@messages.post(
    "job", summary="A job has an event", status_code=204, responses=_ANSWERS, operation_id="job_message"
)
def job_message(body: JobMessage) -> None:
    """Answer with 200 to 299 within ten seconds; anything else is tried again for a day. `webhook-id` is the same
    at every attempt, so that a repetition can be told; `data.event.seq` puts the messages of a job in order."""


@messages.post(
    "ping", summary="The webhook is tried", status_code=204, responses=_ANSWERS, operation_id="ping_message"
)
def ping_message(body: PingMessage) -> None:
    """Sent by `POST /v1/webhooks/{id}/test`."""


def _with_secret(webhook: Webhook, backend: Backend) -> WebhookWithSecret:
    secret = secret_of(webhook, backend.settings.secret.get_secret_value())
    return WebhookWithSecret(**WebhookRead.model_validate(webhook).model_dump(), secret=secret)
