"""The process that sends webhooks, as it is deployed.

Slow: only real processes can be killed in the middle of a delivery, and share the work with one another.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.delivery.events import append_event
from app.settings import Settings
from app.tables.event_types import EventType
from app.tables.jobs import Job
from app.tables.webhooks import WebhookAttempt, WebhookDelivery
from tests.app.webhooks.conftest import Receiver, make_webhook

pytestmark = pytest.mark.slow
Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(environment: dict[str, str], settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts a process that sends."""
    begun: list[subprocess.Popen[bytes]] = []
    settings_of_it = environment | {"SECATEUR_HEALTH_DIR": str(tmp_path), "SECATEUR_DISPATCH_SECONDS": "0.05"}

    def start() -> "subprocess.Popen[bytes]":
        begun.append(subprocess.Popen([sys.executable, "-m", "app.webhooks"], env=os.environ | settings_of_it))
        return begun[-1]

    yield start
    for each in begun:
        each.kill()
        each.wait()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def states(session: Session) -> Counter[str]:
    session.rollback()
    return Counter(session.scalars(select(WebhookDelivery.state)))


def note(session: Session, job: str, count: int) -> None:
    for number in range(count):
        append_event(
            session, session.get_one(Job, job), EventType.note, {"level": "info", "message": "", "number": number}
        )
    session.commit()


def test_two_processes_share_the_work_and_send_nothing_twice(
    api: httpx.Client, job: str, session: Session, receiver: Receiver, start: Start
) -> None:
    make_webhook(api, receiver.url)
    note(session, job, 60)
    processes = [start(), start()]
    wait_until(lambda: states(session) == {"succeeded": 60})
    assert sorted(message["data"]["event"]["data"]["number"] for message in receiver.messages) == list(range(60))
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(30) for process in processes] == [0, 0]


def test_what_a_killed_process_had_under_way_is_sent_by_the_next(
    api: httpx.Client, job: str, session: Session, receiver: Receiver, start: Start
) -> None:
    make_webhook(api, receiver.url)
    receiver.release = threading.Event()
    note(session, job, 2)
    killed = start()
    wait_until(lambda: len(receiver.got) == 2)
    killed.kill()
    killed.wait()
    receiver.release.set()
    start()
    note(session, job, 1)
    wait_until(lambda: states(session) == {"pending": 2, "succeeded": 1})
    # Their time as the killed one's is over.
    session.execute(update(WebhookDelivery).values(held_until=from_now(-1), available_at=from_now(-1)))
    session.commit()
    wait_until(lambda: states(session) == {"succeeded": 3})
    ids = Counter(headers["webhook-id"] for headers, _ in receiver.got)
    assert sorted(ids.values()) == [1, 2, 2]
    numbers = session.execute(select(WebhookAttempt.number, WebhookAttempt.status).order_by(WebhookAttempt.number))
    assert Counter(tuple(each) for each in numbers) == {(1, None): 2, (1, 204): 1, (2, 204): 2}


def test_a_stopped_process_lets_what_is_under_way_end(
    api: httpx.Client, job: str, session: Session, receiver: Receiver, start: Start, tmp_path: Path
) -> None:
    make_webhook(api, receiver.url)
    receiver.release = threading.Event()
    note(session, job, 1)
    process = start()
    wait_until(lambda: len(receiver.got) == 1)
    process.send_signal(signal.SIGTERM)
    receiver.release.set()
    assert process.wait(30) == 0
    assert states(session) == {"succeeded": 1}
    assert (tmp_path / "secateur-webhooks-turn").exists()
