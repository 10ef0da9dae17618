"""Receivers on this machine, which the service is allowed to reach, and a sender that makes single turns."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.engine import get_session_factory, transaction
from app.delivery.events import append_event
from app.settings import Settings
from app.tables.event_types import EventType
from app.tables.jobs import Job
from app.tables.webhooks import DeliveryState, Webhook, WebhookDelivery
from app.webhooks.posting import Poster
from app.webhooks.sender import Sender

LOOPBACK = "127.0.0.0/8,::1/128"


class Receiver:
    """Keeps what it gets, and answers with `status`."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], str]] = []
        self.status = 204
        self.headers: dict[str, str] = {}
        self.release: threading.Event | None = None
        """Answers wait for it."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def messages(self) -> list[Any]:
        return [json.loads(body) for _, body in self.got]

    def close(self) -> None:
        if self.release is not None:
            self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body.decode()))
                if receiver.release is not None:
                    receiver.release.wait(30)
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        return Handler


@pytest.fixture
def make_receiver() -> Iterator[Callable[[], Receiver]]:
    made: list[Receiver] = []

    def make() -> Receiver:
        made.append(Receiver())
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def receiver(make_receiver: Callable[[], Receiver]) -> Receiver:
    return make_receiver()


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """With receivers on this machine allowed."""
    return environment | {"SECATEUR_WEBHOOK_HTTP": "1", "SECATEUR_WEBHOOK_NETWORKS": LOOPBACK}


Send = Callable[..., int]


@pytest.fixture
def send(settings: Settings) -> Send:
    """Takes and posts until nothing is due; how many attempts that were. Keywords: settings."""

    async def run(changed: Settings) -> int:
        sender = Sender(changed, get_session_factory(), Poster(changed.webhook_networks))
        count = 0
        while begun := await sender.turn():
            count += begun
            await sender.drain()
        await sender.close()
        return count

    return lambda **changes: asyncio.run(run(settings.model_copy(update=changes)))


@pytest.fixture
def let_time_pass(settings: Settings) -> Callable[[], None]:
    """Everything that waits for its time is due now, and what was held is not any more."""

    def pass_() -> None:
        with transaction() as session:
            now = "2026-01-01T00:00:00Z"
            session.execute(update(Webhook).values(available_at=now))
            pending = update(WebhookDelivery).where(WebhookDelivery.state == DeliveryState.pending)
            session.execute(pending.values(available_at=now, held_until=None))

    return pass_


def make_webhook(api: httpx.Client, url: str, **fields: Any) -> dict[str, Any]:
    """A webhook with its secret."""
    response = api.post("/v1/webhooks", json={"url": url, **fields})
    assert response.status_code == 201, response.text
    return dict(response.json())


def row(session: Session, delivery: str) -> WebhookDelivery:
    """As it is now."""
    session.rollback()
    return session.get_one(WebhookDelivery, delivery, populate_existing=True)


def note(session: Session, job: str) -> None:
    """An event of the job's; committed."""
    append_event(session, session.get_one(Job, job), EventType.note, {"level": "info", "message": "hello"})
    session.commit()


def pending(session: Session) -> int:
    """How many deliveries wait."""
    session.rollback()
    query = select(func.count()).select_from(WebhookDelivery).where(WebhookDelivery.state == "pending")
    return session.scalar(query) or 0
