"""Webhooks and their deliveries as callers see them."""

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.delivery.announcements import JobMessage
from app.tables.event_types import EventType
from app.tables.states import State
from app.tables.webhooks import DeliveryState, WebhookAttempt, WebhookDelivery
from app.webhooks.posting import PostError
from secateur.spec.job import Labels
from secateur.spec.strict import Strict

_LONGEST_URL: Final = 2000
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")


def _receiver(text: str) -> str:
    """A URL in its normal form. Raises ValueError."""
    try:
        url = httpx.URL(text)
        port = url.port
    except (httpx.InvalidURL, ValueError):
        raise ValueError("is not a URL") from None
    if url.scheme not in ("https", "http") or not url.host:
        raise ValueError("must be like https://host/path")
    if not _HOST.fullmatch(url.raw_host.decode("ascii", "replace")):
        raise ValueError("has a host that is neither a name nor an address")
    if url.userinfo or url.fragment:
        raise ValueError("must have neither a user nor a fragment; use the signature to know who sends")
    if port is not None and not 0 < port < 65536:
        raise ValueError("has no such port")
    normal = str(url)
    if not normal.isascii() or not normal.isprintable() or " " in normal or len(normal) > _LONGEST_URL:
        raise ValueError(f"must have at most {_LONGEST_URL} signs, all of them allowed in a URL")
    return normal


ReceiverUrl = Annotated[
    str,
    Field(min_length=1, max_length=_LONGEST_URL, examples=["https://ci.example.com/secateur"]),
    AfterValidator(_receiver),
]
Description = Annotated[str, Field(max_length=200)]
_Event = Annotated[EventType, Field(strict=False)]
_State = Annotated[State, Field(strict=False)]
Events = Annotated[list[_Event], Field(min_length=1, max_length=len(EventType))]
States = Annotated[list[_State], Field(min_length=1, max_length=len(State))]

_EXAMPLE: Final[dict[str, Any]] = {
    "url": "https://ci.example.com/secateur",
    "events": ["transition"],
    "states": ["succeeded", "failed", "cancelled"],
    "labels": {"team": "search"},
}


class WebhookCreate(Strict):
    """Who shall be told of the project's jobs, and of what. All filters must hold."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    url: ReceiverUrl
    description: Description = ""
    events: Events | None = Field(default=None, description="Types of events; all when null.")
    states: States | None = Field(
        default=None, description="States of the job right after the event; all when null."
    )
    labels: Labels = Field(default={}, description="Labels that the job must have.")
    enabled: bool = True


class WebhookPatch(Strict):
    """What is to be changed; fields left out stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": False}]})

    url: ReceiverUrl = ""
    description: Description = ""
    events: Events | None = None
    states: States | None = None
    labels: Labels = Field(default={})
    enabled: bool = Field(default=True, description="False: nothing is sent, and what waits is skipped.")


class WebhookRead(BaseModel):
    """A receiver of messages about the project's jobs."""

    model_config = ConfigDict(title="Webhook", from_attributes=True)

    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    description: str
    events: list[EventType] | None
    states: list[State] | None
    labels: dict[str, str]
    enabled: bool
    disabled_reason: str | None = Field(description="Why the service switched it off; null when its owner did.")
    failures: int = Field(description="Failed attempts since the last good one.")
    failing_since: datetime | None
    previous_secret_until: datetime | None = Field(
        description="Until then the secret before the newest signs, too."
    )
    created_at: datetime
    updated_at: datetime


class WebhookWithSecret(WebhookRead):
    """A webhook with its newest secret, which is shown only here."""

    model_config = ConfigDict(title="WebhookWithSecret", from_attributes=True)

    secret: str = Field(description="`whsec_…`: verifies the signatures (Standard Webhooks). Keep it.")


class DeliveryAttempt(BaseModel):
    """One try. Without `seconds` it is under way, or its sender was lost."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    started_at: datetime
    seconds: float | None
    status: int | None = Field(description="Of HTTP; null without an answer.")
    error: PostError | None = Field(description="Null when the answer was 200 to 299.")
    response: str | None = Field(description="The beginning of the answer's body, at most 2 KiB.")


class DeliveryRead(BaseModel):
    """One message to one webhook. Its id is the header `webhook-id`, the same at every attempt."""

    model_config = ConfigDict(title="Delivery")

    id: str
    object: Literal["delivery"] = "delivery"
    webhook: str
    type: str
    job: str | None
    seq: int | None = Field(description="The event's number in its job.")
    state: DeliveryState
    attempts: int
    last_attempt: DeliveryAttempt | None
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, delivery: WebhookDelivery, last: WebhookAttempt | None) -> "DeliveryRead":
        """From its rows."""
        return cls.model_validate(_fields(delivery, last))


class DeliveryWithAttempts(DeliveryRead):
    """A delivery with all that was tried, and what was sent."""

    model_config = ConfigDict(title="DeliveryWithAttempts")

    tries: list[DeliveryAttempt]
    body: str = Field(description="What is signed and sent.")


def _fields(delivery: WebhookDelivery, last: WebhookAttempt | None) -> dict[str, Any]:
    names = ("id", "type", "seq", "state", "attempts", "created_at", "finished_at")
    pending = delivery.state == DeliveryState.pending
    return {
        **{name: getattr(delivery, name) for name in names},
        "webhook": delivery.webhook_id,
        "job": delivery.job_id,
        "last_attempt": last,
        "next_attempt_at": delivery.available_at if pending else None,
    }


def with_attempts(delivery: WebhookDelivery, tries: list[WebhookAttempt]) -> DeliveryWithAttempts:
    """tries: in order."""
    last = tries[-1] if tries else None
    return DeliveryWithAttempts.model_validate({**_fields(delivery, last), "tries": tries, "body": delivery.body})


class PingData(BaseModel):
    """What a ping carries."""

    webhook: str


class PingMessage(BaseModel):
    """The body of a request that only tries the webhook."""

    type: Literal["webhook.ping"] = "webhook.ping"
    timestamp: datetime
    data: PingData


Message = JobMessage | PingMessage
