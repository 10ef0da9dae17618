"""Waiting for a change, a state, the end: of a scripted server, and of the real one."""

import threading
from typing import Any

import pytest
from sqlalchemy.orm import Session

from secateur import Client, WaitTimeout
from tests.app.conftest import Inputs, MakeKey, application, inputs, make_key, project, service  # noqa: F401
from tests.app.history.test_feeds import end
from tests.secateur.conftest import Connect, Reply, Request, ScriptedServer


class Clock:
    """Stands for the module `time` and for pauses: it goes on by what is slept alone."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, _: Any, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("waiting", "transport", "retries"):
        monkeypatch.setattr(f"secateur.{module}.time", clock)
    for kind in ("BlockingWire", "AsyncWire"):
        monkeypatch.setattr(f"secateur.wire.{kind}.sleep", lambda *given: clock.sleep(*given))
    return clock


@pytest.fixture
def client(connect: Connect, scripted: ScriptedServer) -> Client:
    return connect(scripted.url, "sctr_key", retry_seconds=0)


def job(state: str, tag: str, **more: Any) -> Reply:
    return Reply.json({"id": "job_1", "state": state, **more}, ETag=f'"{tag}"')


def same(tag: str) -> Reply:
    return Reply(304, b"", {"ETag": f'"{tag}"'})


def test_a_change_is_waited_for_behind_the_first_look(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [job("running", "1"), same("1"), job("running", "2", priority=3)]
    assert client.wait("job_1", for_="change", every=0)["priority"] == 3
    assert [each.path for each in scripted.requests] == ["/v1/jobs/job_1", *["/v1/jobs/job_1?wait=30"] * 2]
    assert [each.headers.get("if-none-match") for each in scripted.requests] == [None, '"1"', '"1"']


def test_a_state_is_not_taken_for_another_when_progress_was_made(client: Client, scripted: ScriptedServer) -> None:
    """The server says how the job is when the time of a wait is over."""
    scripted.script = [job("running", "1"), job("running", "2"), job("paused", "3")]
    assert client.wait("job_1", for_="state", every=0)["state"] == "paused"
    first, *others = scripted.requests
    assert first.path == "/v1/jobs/job_1"
    assert {each.path for each in others} == {"/v1/jobs/job_1?wait=30&for=state"}


def test_who_wants_updates_is_told_progress_too(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [job("running", "1"), job("running", "2"), job("paused", "3")]
    seen: list[str] = []
    client.wait("job_1", for_="state", every=0, on_update=lambda job: seen.append(job["state"]))
    assert seen == ["running", "running", "paused"]
    assert "for=" not in scripted.requests[1].path


@pytest.mark.parametrize("awaited", ["change", "state", "end"])
def test_nothing_is_waited_for_of_a_job_that_has_ended(
    client: Client, scripted: ScriptedServer, awaited: Any
) -> None:
    scripted.script = [job("failed", "1")]
    assert client.wait("job_1", for_=awaited)["state"] == "failed"


def test_a_tag_that_a_proxy_writes_otherwise_is_no_change(client: Client, scripted: ScriptedServer) -> None:
    """One that compresses makes the tag of what it compresses a weak one, and leaves that of a 304 alone."""
    first = job("running", "1")
    first.headers["ETag"] = 'W/"1"'
    scripted.script = [first, same("1"), job("running", "2", priority=3)]
    assert client.wait("job_1", for_="change", every=0)["priority"] == 3
    assert [each.headers.get("if-none-match") for each in scripted.requests] == [None, 'W/"1"', 'W/"1"']


def test_no_change_in_time_is_said(client: Client, scripted: ScriptedServer) -> None:
    scripted.answer = lambda _: job("running", "1")
    with pytest.raises(WaitTimeout, match=r"job_1 is as it was after 0\.05 s"):
        client.wait("job_1", for_="change", every=0.01, timeout=0.05)


@pytest.mark.parametrize("reply", [Reply(503, b""), Reply(200, b"{}", cut=0)], ids=["busy", "broken"])
@pytest.mark.parametrize(
    "wait",
    [
        lambda client: client.wait("job_1", timeout=20),
        lambda client: client.wait("job_1", for_="change", timeout=20),
        lambda client: client.wait_for_model("mdl_1", timeout=20),
    ],
)
def test_a_server_that_is_away_is_tried_again_until_the_deadline_alone(
    wait: Any, reply: Reply, connect: Connect, scripted: ScriptedServer, clock: Clock
) -> None:
    scripted.answer = lambda _: reply
    begun = clock.now
    with pytest.raises(WaitTimeout, match=r"cannot be seen \(.+\) after 20 s"):
        wait(connect(scripted.url, "sctr_key", retry_seconds=60))
    assert clock.now - begun <= 20
    assert len(scripted.requests) > 4
    asked = [float(each.path.partition("wait=")[2].partition("&")[0] or 0) for each in scripted.requests]
    assert asked == sorted(asked, reverse=True)
    assert asked[0] <= 20


def test_a_server_that_does_not_answer_is_not_waited_for_behind_the_deadline(
    connect: Connect, scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.transport.LATE", 0.1)
    given_up = threading.Event()

    def answer(_: Request) -> Reply:
        given_up.wait(20)
        return job("succeeded", "1")

    scripted.answer = answer
    with pytest.raises(WaitTimeout):
        connect(scripted.url, "sctr_key", retry_seconds=60).wait("job_1", timeout=0.1)
    given_up.set()


def test_the_real_service_is_waited_for(
    service: str,  # noqa: F811
    make_key: MakeKey,  # noqa: F811
    inputs: Inputs,  # noqa: F811
    session: Session,
    connect: Connect,
) -> None:
    with connect(service, make_key()) as client, Client(service, make_key()) as other:
        id = client.submit(inputs.body())["id"]
        looked = threading.Event()
        changing = threading.Thread(target=lambda: looked.wait(30) and other.change(id, priority=7))
        changing.start()
        found = client.wait(id, for_="change", timeout=60, on_update=lambda _: looked.set())
        changing.join()
        assert (found["priority"], found["state"]) == (7, "queued")
        ending = threading.Thread(target=lambda: looked.wait(30) and other.pause(id))
        looked.clear()
        ending.start()
        found = client.wait(id, for_="state", timeout=60, on_update=lambda _: looked.set())
        ending.join()
        assert found["state"] == "paused"
        end(session, id)
        assert client.wait(id, timeout=60)["state"] == "cancelled"
