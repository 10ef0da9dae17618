"""Events and log lines as pages that wait, and as streams that resume and end."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session
from starlette.requests import Request

from app.auth.scopes import Scope
from app.delivery.events import append_event
from app.delivery.transitions import transition
from app.history import feeds
from app.history.streaming import wants_stream
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobLog
from app.tables.states import State
from tests.app.conftest import MakeKey, client_of
from tests.worker.harness import SCRIPTED, make_tiny_jobs
from worker.attempt import run_jobs

STREAM = {"Accept": "text/event-stream"}


@dataclass(frozen=True)
class Message:
    """One server-sent event, as a browser would hand it on."""

    id: str | None
    event: str
    data: Any


@contextmanager
def stream(
    api: httpx.Client, path: str, last: str | None = None, **params: Any
) -> Iterator[tuple[httpx.Response, Iterator[Message | str]]]:
    """The answer, and what comes: messages, and as text every comment and retry line."""
    headers = STREAM if last is None else STREAM | {"Last-Event-ID": last}
    with api.stream("GET", path, headers=headers, params=params) as response:
        yield response, _messages(response)


def _messages(response: httpx.Response) -> Iterator[Message | str]:
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(":")
        if not line:
            if "data" in fields:
                yield Message(fields.get("id"), fields.get("event", "message"), json.loads(fields["data"]))
            fields = {}
        elif name in ("", "retry"):
            yield line
        else:
            assert name in ("id", "event", "data")
            assert name not in fields
            fields[name] = value.removeprefix(" ")


def read(api: httpx.Client, path: str, last: str | None = None, **params: Any) -> list[Message]:
    """All messages of a stream that ends."""
    with stream(api, path, last, **params) as (response, messages):
        assert response.status_code == 200, response.read()
        return [each for each in messages if isinstance(each, Message)]


def note(session: Session, job: str, number: int = 0) -> None:
    append_event(
        session, session.get_one(Job, job), EventType.note, {"level": "info", "message": "", "number": number}
    )
    session.commit()


def say(session: Session, job: str, seq: int, message: str = "a line") -> None:
    session.add(JobLog(job_id=job, seq=seq, attempt=1, level="info", message=message))
    session.commit()


def end(session: Session, job: str) -> None:
    transition(session, session.get_one(Job, job), State.cancelled)
    session.commit()


def test_a_stream_has_what_the_pages_have_and_ends_with_the_job(
    api: httpx.Client, job: str, session: Session
) -> None:
    url = f"/v1/jobs/{job}/events"
    for number in range(5):
        note(session, job, number)
    end(session, job)
    page = api.get(url).json()["data"]
    with stream(api, url) as (response, messages):
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["vary"] == "Accept"
        assert next(messages) == f"retry: {feeds.RETRY_MILLISECONDS}"
        found = list(messages)
    assert found == [Message(str(row["seq"]), row["type"], row) for row in page]
    assert api.get(url).headers["vary"] == "Accept"
    assert read(api, url, limit=2) == found
    assert read(api, url, "3") == found[3:]
    assert read(api, url, after=3) == found[3:]
    assert read(api, url, "5", after=1) == found[5:], "what the browser says goes before the address"
    for last, after in (("7", 0), (None, 7)):
        with stream(api, url, last, after=after) as (response, _):
            assert (response.status_code, response.read()) == (204, b"")
    # What is said of a finished job later on comes to whoever asks again.
    append_event(session, session.get_one(Job, job), EventType.checkpoint_dropped, {})
    session.commit()
    assert [each.event for each in read(api, url, "7")] == ["checkpoint_dropped"]


def test_logs_are_streamed_until_all_lines_of_a_finished_job_are_sent(
    api: httpx.Client, job: str, session: Session
) -> None:
    url = f"/v1/jobs/{job}/logs"
    # Readers that split lines as Python does must not be led astray.
    say(session, job, 1, "one\r\ntwo\nthree: ü\u2028\u2029\x85\x0b")
    with stream(api, url) as (_, messages):
        next(messages)
        first = next(messages)
        say(session, job, 2)
        second = next(messages)
        end(session, job)
        assert list(messages) == []
    rows = api.get(url).json()["data"]
    assert [first, second] == [Message(str(row["seq"]), "log", row) for row in rows]
    with stream(api, url, "2") as (response, _):
        assert response.status_code == 204


def test_a_stream_of_nothing_waits_for_the_first_row(api: httpx.Client, job: str, session: Session) -> None:
    with stream(api, f"/v1/jobs/{job}/logs") as (_, messages):
        next(messages)
        say(session, job, 1)
        line = next(messages)
        assert isinstance(line, Message)
        assert line.id == "1"
        end(session, job)
        assert list(messages) == []


@pytest.mark.slow
def test_a_stream_that_is_cut_again_and_again_loses_and_repeats_nothing(
    session: Session, store: ObjectStore, settings: Settings, service: str, make_key: MakeKey
) -> None:
    """Slow: a whole job runs meanwhile, with its real writers."""
    job = make_tiny_jobs(session, store, None).make()
    found: dict[str, list[Message]] = {"events": [], "logs": []}

    def follow(kind: str) -> None:
        """Reads a few messages a connection, each time more."""
        with client_of(service, make_key()) as api:
            for share in range(1, 10_000):
                last = found[kind][-1].id if found[kind] else None
                with stream(api, f"/v1/jobs/{job}/{kind}", last) as (response, messages):
                    if response.status_code == 204:
                        return
                    real = (each for each in messages if isinstance(each, Message))
                    for each, _ in zip(real, range(1 + share % 4), strict=False):
                        found[kind].append(each)

    with ThreadPoolExecutor(2) as pool:
        following = [pool.submit(follow, kind) for kind in found]
        run_jobs(settings, "here", list(SCRIPTED))
        for each in following:
            each.result(60)
    with client_of(service, make_key()) as api:
        for kind, messages in found.items():
            rows = api.get(f"/v1/jobs/{job}/{kind}", params={"limit": 1000}).json()["data"]
            assert [each.data for each in messages] == rows, kind
            assert [int(each.id or 0) for each in messages] == list(range(1, len(rows) + 1))
        assert found["events"][-1].data["data"]["to"] == "succeeded"


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 11, "2147483648", "\u0661".encode(), "1 2", "99"])
def test_an_id_that_no_message_has_is_refused_by_name(api: httpx.Client, job: str, last: Any) -> None:
    response = api.get(f"/v1/jobs/{job}/events", headers={**STREAM, "Last-Event-ID": last})
    assert response.status_code == 422
    assert response.json()["errors"][0]["parameter"] == "Last-Event-ID"


def test_a_cursor_is_not_for_streams(api: httpx.Client, job: str, session: Session) -> None:
    note(session, job)
    url = f"/v1/jobs/{job}/events"
    cursor = api.get(url, params={"limit": 1}).json()["next_cursor"]
    refused = api.get(url, headers=STREAM, params={"cursor": cursor})
    assert (refused.status_code, refused.json()["errors"][0]["parameter"]) == (422, "cursor")


@pytest.mark.parametrize(
    ("accept", "streamed"),
    [
        *(
            (text, True)
            for text in ("text/event-stream", "TEXT/Event-Stream", "text/event-stream;q=0.5, */*;q=0.1")
        ),
        *((text, True) for text in ("application/json, text/event-stream", "text/event-stream; charset=utf-8")),
        *((text, False) for text in ("", "*/*", "text/*", "application/json", "text/event-stream;q=0")),
        *((text, False) for text in ("application/json, text/event-stream;q=0.9", "text/event-stream;q=x", ";,;")),
    ],
)
def test_who_asks_for_a_stream_gets_one(accept: str, streamed: bool) -> None:
    request = Request({"type": "http", "headers": [(b"accept", accept.encode())]})
    assert wants_stream(request) == streamed


def test_another_projects_job_has_no_stream(
    stranger: httpx.Client, job: str, service: str, make_key: MakeKey
) -> None:
    for kind in ("events", "logs"):
        for id in (job, "job_0"):
            response = stranger.get(f"/v1/jobs/{id}/{kind}", headers=STREAM)
            assert (response.status_code, response.json()["code"]) == (404, "job_not_found")
            assert stranger.get(f"/v1/jobs/{id}/{kind}", params={"wait": 30}).status_code == 404
        with client_of(service, make_key(scopes=[Scope.data_read])) as lesser, client_of(service, None) as nobody:
            assert lesser.get(f"/v1/jobs/{job}/{kind}", headers=STREAM).status_code == 403
            assert nobody.get(f"/v1/jobs/{job}/{kind}", headers=STREAM).status_code == 401


@pytest.mark.parametrize("kind", ["events", "logs"])
def test_an_empty_page_waits_for_the_next_row(api: httpx.Client, job: str, session: Session, kind: str) -> None:
    url, after = f"/v1/jobs/{job}/{kind}", 1
    say(session, job, 1)
    assert len(api.get(url, params={"wait": 30}).json()["data"]) == 1, "what is there is not waited for"
    assert api.get(url, params={"wait": 0.3, "after": after}).json()["data"] == []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.get, url, params={"wait": 60, "after": after})
        (note if kind == "events" else say)(session, job, 2)
        assert [row["seq"] for row in waiting.result(30).json()["data"]] == [2]
        waiting = pool.submit(api.get, url, params={"wait": 60, "after": 99})
        end(session, job)
        assert waiting.result(30).json()["data"] == [], "it ends with the job"
    assert api.get(url, params={"wait": 60, "after": 99}).json()["data"] == []
    for wait in (-1, "nan", 3601):
        assert api.get(url, params={"wait": wait}).status_code == 422
