"""From the outbox to the broker, whatever happens to the broker."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery.claim import claim
from app.dispatch import repository
from app.dispatch.dispatcher import Dispatcher
from app.local.servers import ValkeyServer
from app.outbox import Queue, notify
from app.settings import Settings
from app.tables.jobs import Job
from app.tables.outbox import OutboxMessage
from tests.jobs import make_jobs


@pytest.fixture
def dispatcher(settings: Settings) -> Iterator[Dispatcher]:
    dispatcher = Dispatcher(settings.broker_url.get_secret_value())
    yield dispatcher
    dispatcher.close()


def waiting(settings: Settings, queue: str) -> int:
    client = redis.Redis.from_url(settings.broker_url.get_secret_value())
    try:
        return int(client.llen(f"secateur:{queue}"))
    finally:
        client.close()


def test_a_ring_reaches_its_queue_once(dispatcher: Dispatcher, session: Session, settings: Settings) -> None:
    dispatcher.look()
    notify(session, Queue.gpu, "job_x")
    notify(session, Queue.cpu, "tsk_x")
    notify(session, Queue.gpu, "job_later", after_seconds=60)
    session.commit()
    assert dispatcher.look() == 2
    assert dispatcher.look() == 0
    assert (waiting(settings, "gpu"), waiting(settings, "cpu")) == (1, 1)


def test_a_published_ring_is_noted_on_its_job(dispatcher: Dispatcher, session: Session) -> None:
    id = make_jobs(session).make()
    notify(session, Queue.gpu, id)
    session.commit()
    dispatcher.look()
    job = session.get_one(Job, id, populate_existing=True)
    assert (job.notifications > 0, job.notified_at is not None) == (True, True)


def test_a_worker_that_answers_at_once_gets_the_job(session: Session) -> None:
    id = make_jobs(session).make()
    notify(session, Queue.gpu, id)
    session.commit()
    with transaction() as dispatching:
        messages = repository.take(dispatching)
    with transaction() as dispatching:
        # The broker has the message, its row is being marked, and a worker is already there.
        repository.mark_published(dispatching, messages)
        with transaction() as worker:
            found = claim(worker, "w1", 60)
    assert found is not None
    assert found.lease.job_id == id


def test_a_broker_that_lost_its_data_hears_of_every_queued_job(
    dispatcher: Dispatcher, session: Session, settings: Settings
) -> None:
    make_jobs(session).make()
    assert dispatcher.look() == 1, "nobody had notified, but the broker was new"
    assert dispatcher.look() == 0
    client = redis.Redis.from_url(settings.broker_url.get_secret_value())
    client.flushall()
    client.close()
    assert dispatcher.look() == 1
    assert waiting(settings, "gpu") == 1


def test_two_dispatchers_share_the_work(session: Session, settings: Settings) -> None:
    url = settings.broker_url.get_secret_value()
    first, second = Dispatcher(url), Dispatcher(url)
    first.look()
    for number in range(150):
        notify(session, Queue.gpu, f"job_{number}")
    session.commit()
    assert first.look() + second.look() + first.look() == 150
    assert waiting(settings, "gpu") == 150
    first.close()
    second.close()


def test_a_dead_broker_only_delays(session: Session, settings: Settings, tmp_path: Path) -> None:
    with ValkeyServer(tmp_path / "valkey", password=secrets.token_hex(8)) as server:
        dispatcher = Dispatcher(server.url)
        dispatcher.look()
        notify(session, Queue.gpu, "job_x")
        session.commit()
        server.child.kill()
        began = time.monotonic()
        assert dispatcher.look() == 0
        assert time.monotonic() - began < 10, "a publish must be bounded"
        row = session.query(OutboxMessage).one()
        assert (row.published_at, row.attempts) == (None, 1)
        session.query(OutboxMessage).update({"available_at": row.created_at})
        session.commit()
        server.start()
        assert dispatcher.look() == 1
        dispatcher.close()


def test_a_message_taken_by_a_dispatcher_that_died_comes_back(session: Session, settings: Settings) -> None:
    from app.dispatch import repository

    notify(session, Queue.gpu, "job_x")
    session.commit()
    with transaction() as other:
        assert len(repository.take(other)) == 1
    with transaction() as other:
        assert repository.take(other) == []
    row = session.query(OutboxMessage).populate_existing().one()
    assert row.published_at is None
    assert (row.available_at - row.created_at).total_seconds() > repository.HOLD_SECONDS - 5
