"""What an open stream may cost, and what ends it."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from app.auth.repository import revoke_key
from app.db.clock import from_now
from app.db.engine import transaction
from app.history import feeds
from app.settings import Settings
from app.tables.auth import ApiKey
from app.tables.jobs import Job, JobLog
from tests.app.conftest import Inputs, MakeKey, client_of, running
from tests.app.history.test_feeds import STREAM, Message, end, stream


def revoke(_: str) -> None:
    with transaction() as session:
        for key in session.query(ApiKey):
            revoke_key(session, key.id)


def expire(_: str) -> None:
    with transaction() as session:
        session.execute(update(ApiKey).values(expires_at=from_now(-1)))


def remove(job: str) -> None:
    with transaction() as session:
        session.execute(delete(Job).where(Job.id == job))


@pytest.mark.parametrize("happening", [revoke, expire, remove])
def test_a_stream_ends_when_its_key_or_its_job_does(
    api: httpx.Client, job: str, monkeypatch: pytest.MonkeyPatch, happening: Any
) -> None:
    monkeypatch.setattr(feeds, "PING_SECONDS", 0.2)
    with stream(api, f"/v1/jobs/{job}/events") as (_, messages):
        assert [next(messages) for _ in range(2)]
        happening(job)
        assert list(messages) == []
    again = api.get(f"/v1/jobs/{job}/events", headers=STREAM)
    assert again.status_code == (404 if happening is remove else 401)


def test_a_stream_shows_that_it_lives(api: httpx.Client, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.history.streaming.PING_SECONDS", 0.1)
    with stream(api, f"/v1/jobs/{job}/logs") as (_, messages):
        assert [next(messages) for _ in range(3)][1:] == [": alive", ": alive"]


def test_a_key_may_hold_so_many_streams_and_waits(settings: Settings, make_key: MakeKey, inputs: Inputs) -> None:
    changed = settings.model_copy(update={"held_waits": 2})
    with running(changed) as url, client_of(url, make_key()) as api, client_of(url, make_key()) as other:
        job = api.post("/v1/jobs", json=inputs.body()).json()["id"]
        path = f"/v1/jobs/{job}/events"
        with stream(api, path) as (_, one), stream(api, path) as (_, two):
            assert next(one) == next(two)
            for refused in (
                api.get(path, headers=STREAM),
                api.get(path, params={"wait": 9, "after": 1}),
            ):
                assert (refused.status_code, refused.json()["code"]) == (429, "too_many_waits")
                assert refused.headers["retry-after"] == "5"
            assert api.get(path).status_code == 200
            with stream(other, path) as (response, _):
                assert response.status_code == 200
        deadline = time.monotonic() + 20
        while (answer := api.get(path, params={"wait": 0.1, "after": 1})).status_code == 429:
            assert time.monotonic() < deadline, "the streams that have ended still count"
        assert answer.json()["data"] == []


def test_streams_hold_neither_connections_nor_threads(
    settings: Settings, make_key: MakeKey, inputs: Inputs, session: Session
) -> None:
    changed = settings.model_copy(update={"database_pool": 1})
    key = make_key()
    with running(changed) as url, client_of(url, key) as api:
        job = api.post("/v1/jobs", json=inputs.body()).json()["id"]
        opened = threading.Barrier(61)

        def follow(_: int) -> list[Message]:
            with client_of(url, key) as mine, stream(mine, f"/v1/jobs/{job}/events") as (_, messages):
                found = [next(messages), next(messages)]
                opened.wait(60)
                return [each for each in (*found, *messages) if isinstance(each, Message)]

        with ThreadPoolExecutor(60) as pool:
            following = [pool.submit(follow, number) for number in range(60)]
            opened.wait(60)
            assert api.get(f"/v1/jobs/{job}").status_code == 200
            assert api.get("/v1/jobs").status_code == 200
            end(session, job)
            ends = [each.result(60)[-1] for each in following]
    assert {each.data["data"]["to"] for each in ends} == {"cancelled"}


def test_a_reader_who_does_not_read_is_not_read_for(
    api: httpx.Client, job: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "x" * 10_000
    session.add_all(
        JobLog(job_id=job, seq=number, attempt=1, level="info", message=line) for number in range(1, 3001)
    )
    session.commit()
    taken: list[int] = []
    original = feeds.read_batches

    def counted(connection: Any, questions: Any) -> Any:
        found = original(connection, questions)
        taken.extend(len(each.messages) for each in found if each is not None)
        return found

    monkeypatch.setattr(feeds, "read_batches", counted)
    with stream(api, f"/v1/jobs/{job}/logs", limit=1000) as (_, messages):
        next(messages)
        before = -1
        while before != len(taken):
            before = len(taken)
            time.sleep(0.5)
        # Thirty megabytes are there; what the sockets hold, and a batch, has been taken.
        assert sum(taken) < 2000
        end(session, job)
        assert len(list(messages)) == 3000
    assert max(taken) == 100


def test_a_reader_who_takes_nothing_is_given_up(
    settings: Settings, make_key: MakeKey, inputs: Inputs, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.history.streaming.SEND_SECONDS", 0.3)
    key = make_key()
    with running(settings.model_copy(update={"held_waits": 1})) as url, client_of(url, key) as api:
        job = api.post("/v1/jobs", json=inputs.body()).json()["id"]
        session.add_all(
            JobLog(job_id=job, seq=number, attempt=1, level="info", message="x" * 10_000)
            for number in range(1, 2001)
        )
        session.commit()
        path = f"/v1/jobs/{job}/logs"
        address = urlsplit(url)
        with socket.create_connection((address.hostname or "", address.port or 0)) as idle:
            lines = (
                f"GET {path} HTTP/1.1",
                "Host: x",
                f"Authorization: Bearer {key}",
                "Accept: text/event-stream",
            )
            idle.sendall("\r\n".join((*lines, "", "")).encode())
            assert idle.recv(12) == b"HTTP/1.1 200"
            deadline = time.monotonic() + 30
            while api.head(path, headers=STREAM).status_code == 429:
                assert time.monotonic() < deadline, "it is still held"
                time.sleep(0.1)


@pytest.mark.parametrize("kind", ["events", "logs"])
def test_who_asks_for_headers_alone_opens_no_stream(api: httpx.Client, job: str, kind: str) -> None:
    url = f"/v1/jobs/{job}/{kind}"
    asked = api.head(url, headers=STREAM)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-type"].startswith("text/event-stream")
    assert api.head(url).headers["content-type"] == "application/json"
    assert api.get(url).status_code == 200, "on the same connection"
