"""Streams of both clients: of the real service, and of a server that breaks off, is away and comes back."""

import json
from typing import Any

import pytest
from sqlalchemy.orm import Session

from secateur import Client, NotReachable, ProblemError, SecateurError
from tests.app.conftest import Inputs, MakeKey, application, inputs, make_key, project, service  # noqa: F401
from tests.app.history.test_feeds import end
from tests.secateur.conftest import Connect, Reply, Request, ScriptedServer

KIND = {"Content-Type": "text/event-stream; charset=utf-8"}
END = Reply(204, b"")


def stream(*rows: int, cut: int | None = None, last: bytes = b"", retry: int = 20) -> Reply:
    """An answer as the service streams it, which ends cleanly or breaks after `cut` bytes."""
    messages = [f"retry: {retry}\n\n: alive\n\n", *map(_message, rows)]
    body = "".join(messages).encode() + last
    return Reply(200, body, KIND, cut=cut)


def _message(row: int) -> str:
    data = {"seq": row, "type": "note", "at": "2026-01-01T00:00:00Z", "data": {}}
    return f"id: {row}\nevent: note\ndata: {json.dumps(data)}\n\n"


@pytest.fixture
def client(connect: Connect, scripted: ScriptedServer) -> Client:
    return connect(scripted.url, "sctr_key", retry_seconds=0)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited, without waiting."""
    waited: list[float] = []

    async def sleep(self: Any, seconds: float) -> None:
        waited.append(seconds)

    for kind in ("BlockingWire", "AsyncWire"):
        monkeypatch.setattr(f"secateur.wire.{kind}.sleep", sleep)
    return waited


def begun_behind(scripted: ScriptedServer) -> list[int]:
    return [int(each.headers["last-event-id"]) for each in scripted.requests]


def test_a_stream_of_the_real_service_ends_with_its_job(
    service: str,  # noqa: F811
    make_key: MakeKey,  # noqa: F811
    inputs: Inputs,  # noqa: F811
    session: Session,
    connect: Connect,
) -> None:
    with connect(service, make_key()) as client:
        job = client.submit(inputs.body())["id"]
        events = client.stream(job)
        assert next(events)["type"] == "created"
        end(session, job)
        last = list(events)[-1]
        assert last["type"] == "transition"
        assert last["data"]["to"] == "cancelled"
        everything = list(client.events(job))
        assert list(client.stream(job)) == everything
        assert [event["seq"] for event in client.stream(job, after=1)] == [row["seq"] for row in everything[1:]]
        assert list(client.stream(job, after=everything[-1]["seq"])) == []
        assert list(client.stream_logs(job)) == []
        with pytest.raises(ProblemError) as refused:
            next(client.stream(job, after=1_000))
        assert refused.value.status == 422


def test_a_stream_is_asked_for_as_one(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [stream(4, 5), END]
    assert [row["seq"] for row in client.stream("job_1", 3)] == [4, 5]
    first, second = scripted.requests
    assert (first.path, first.headers["accept"]) == ("/v1/jobs/job_1/events", "text/event-stream")
    assert (first.headers["last-event-id"], second.headers["last-event-id"]) == ("3", "5")


def test_a_broken_stream_goes_on_behind_its_last_whole_message(
    client: Client, scripted: ScriptedServer, pauses: list[float]
) -> None:
    whole = stream(1, 2)
    scripted.script = [stream(1, 2, 3, cut=len(whole.body) + 30), stream(3, cut=3), stream(3), END]
    assert [row["seq"] for row in client.stream("job_1")] == [1, 2, 3]
    assert begun_behind(scripted) == [0, 2, 2, 3]
    assert pauses == [0.02, 0.02]  # none before the question whether the end is the end


def test_a_server_that_stops_says_when_to_come_back(
    client: Client, scripted: ScriptedServer, pauses: list[float]
) -> None:
    stopping = b": the server stops; come back\nretry: 3500\n\n"
    scripted.script = [stream(1, last=stopping), stream(2), END]
    assert [row["seq"] for row in client.stream_logs("job_1")] == [1, 2]
    assert scripted.requests[0].path == "/v1/jobs/job_1/logs"
    assert pauses == [3.5]


def test_a_server_that_is_away_is_waited_for_as_it_asks(
    client: Client, scripted: ScriptedServer, pauses: list[float]
) -> None:
    busy = Reply.json({"status": 429, "code": "too_many_waits", "detail": "no"}, 429, Retry_After="7")
    scripted.script = [busy, Reply(500, b"Internal Server Error"), stream(1, cut=0), stream(1), END]
    assert [row["seq"] for row in client.stream("job_1")] == [1]
    assert pauses[0] == 7
    assert all(pause >= 2 for pause in pauses)


@pytest.mark.parametrize(("status", "code"), [(401, "unauthorized"), (404, "job_not_found")])
def test_a_refusal_ends_the_stream_even_when_it_had_begun(
    client: Client, scripted: ScriptedServer, pauses: list[float], status: int, code: str
) -> None:
    scripted.script = [stream(1), Reply.json({"status": status, "code": code, "detail": "no"}, status)]
    rows = client.stream("job_1")
    assert next(rows)["seq"] == 1
    with pytest.raises(ProblemError) as refused:
        next(rows)
    assert refused.value.code == code


def test_what_leads_nowhere_is_an_error_of_the_client(
    client: Client, scripted: ScriptedServer, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.waiting.AWAY", -1.0)
    scripted.script = [Reply(302, b"", {"Location": "gopher://elsewhere/"})]
    with pytest.raises(NotReachable, match="gopher"):
        next(client.stream("job_1"))


def test_what_is_no_stream_is_named_as_such(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json({"data": [], "next_cursor": None})]
    with pytest.raises(SecateurError, match="does not answer with a stream"):
        next(client.stream("job_1"))


def test_messages_are_read_whatever_pieces_they_come_in(client: Client, scripted: ScriptedServer) -> None:
    """Lines that end with CRLF, data of several lines, unknown fields."""
    body = b': hello\r\n\r\nid: 1\r\nother: x\r\ndata: {"seq": 1,\r\ndata:  "type": "note"}\r\n\r\n'
    scripted.script = [Reply(200, body, KIND), END]
    assert list(client.stream("job_1")) == [{"seq": 1, "type": "note"}]


def test_a_stream_that_is_not_read_to_its_end_is_closed(
    client: Client, scripted: ScriptedServer, pauses: list[float]
) -> None:
    """And the client goes on with other calls."""
    scripted.answer = lambda request: Reply.json({"id": "job_1"}) if _is_plain(request) else stream(1, 2, 3)
    rows = client.stream("job_1")
    next(rows)
    rows.close()
    assert client.job("job_1") == {"id": "job_1"}
    assert len(scripted.requests) == 2


def _is_plain(request: Request) -> bool:
    return "last-event-id" not in request.headers
