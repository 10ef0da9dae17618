"""The receiver that docs/api.md shows takes what the sender signs and nothing else, and works on a message once,
outside of the request."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from app.tables.webhooks import Webhook
from app.webhooks.secrets import secret_of, signed_headers
from tests.snippets import snippet
from tests.worker.harness import wait_until

PEPPER = "x" * 32
SECRET = secret_of(Webhook(id="whk_1", secret_version=1), PEPPER)
EXAMPLE = snippet("api.md", "A receiver")
WORK = 'if message["type"] == "job.transition":'
STARTED = {"type": "job.transition", "data": {"job": {"id": "job_1", "state": "running"}, "event": {"seq": 2}}}
ENDED = {"type": "job.transition", "data": {"job": {"id": "job_1", "state": "succeeded"}, "event": {"seq": 7}}}

Start = Callable[[str], AbstractContextManager[tuple[httpx.Client, Callable[[], list[str]]]]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Runs a program as the receiver of this test's inbox: a client of it, and the lines it has printed."""
    output = tmp_path / "output"

    @contextmanager
    def run(program: str) -> Iterator[tuple[httpx.Client, Callable[[], list[str]]]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        given = {"WEBHOOK_SECRET": SECRET, "PORT": str(port), "INBOX": str(tmp_path / "inbox.sqlite")}
        with output.open("ab") as file:
            command = [sys.executable, "-c", program]
            process = subprocess.Popen(command, env=os.environ | given, stdout=file, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.05)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
                yield client, lambda: output.read_text().splitlines()
        finally:
            process.kill()
            process.wait()

    return run


def send(client: httpx.Client, id: str, body: str, at: datetime | None = None, **changed: str) -> int:
    """Status of the answer to a signed message."""
    other = secret_of(Webhook(id="whk_2", secret_version=1), PEPPER)
    headers = signed_headers(id, body, [other, SECRET], at or datetime.now(UTC)) | changed
    return client.post("/", headers=headers, content=body).status_code


def announce(client: httpx.Client, size: int) -> int:
    """Status of the answer to a body of so many bytes, none of which is sent."""
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=60)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    with closing(connection):
        return connection.getresponse().status


def test_what_is_signed_is_taken_and_nothing_else(start: Start) -> None:
    body, late = json.dumps(ENDED), datetime.now(UTC) - timedelta(minutes=6)
    with start(EXAMPLE) as (client, printed):
        assert send(client, "msg_0", json.dumps({"type": "webhook.ping", "data": {"webhook": "whk_1"}})) == 204
        assert send(client, "msg_1", body) == 204
        assert send(client, "msg_2", body, late) == 401
        assert send(client, "msg_3", body, **{"webhook-id": "msg_4"}) == 401
        assert client.post("/", content=body).status_code == 401
        assert announce(client, 1 << 30) == 413
        wait_until(lambda: printed() != [])
        assert printed() == ["job_1 succeeded"]


def test_a_message_that_comes_twice_is_worked_on_once(start: Start) -> None:
    with start(EXAMPLE) as (client, printed):
        for id, message in (("msg_1", STARTED), ("msg_1", STARTED), ("msg_2", ENDED), ("msg_1", STARTED)):
            assert send(client, id, json.dumps(message)) == 204
        wait_until(lambda: len(printed()) >= 2)
        assert printed() == ["job_1 running", "job_1 succeeded"]


def test_work_is_outside_of_the_request_and_survives_a_restart(start: Start) -> None:
    assert WORK in EXAMPLE
    stuck = EXAMPLE.replace(WORK, f"threading.Event().wait()\n    {WORK}")
    with start(stuck) as (client, printed):
        assert send(client, "msg_1", json.dumps(STARTED)) == 204
        assert send(client, "msg_2", json.dumps(ENDED)) == 204, "while the work on the first has not ended"
        assert printed() == []
    with start(EXAMPLE) as (client, printed):
        wait_until(lambda: len(printed()) >= 2)
        assert printed() == ["job_1 running", "job_1 succeeded"]


def test_work_that_fails_is_done_again_and_holds_up_no_other(start: Start) -> None:
    failing = EXAMPLE.replace(
        WORK, f'if message["data"]["event"]["seq"] == 2:\n        raise OSError()\n    {WORK}'
    )
    with start(failing) as (client, printed):
        assert send(client, "msg_1", json.dumps(STARTED)) == 204
        assert send(client, "msg_2", json.dumps(ENDED)) == 204
        wait_until(lambda: "job_1 succeeded" in printed())
        assert "msg_1 OSError()" in printed()
    with start(EXAMPLE) as (_, printed):
        wait_until(lambda: "job_1 running" in printed())


def test_an_inbox_that_cannot_be_read_for_a_while_stops_nothing(start: Start) -> None:
    head = "def work_through_inbox() -> None:"
    assert head in EXAMPLE
    broken = "    rounds.append(1)\n    if len(rounds) < 3:\n        sql('SELECT 1 FROM gone')"
    failing = EXAMPLE.replace(head, f"def work_through_inbox(rounds=[]) -> None:\n{broken}")
    with start(failing) as (client, printed):
        for message in range(3):
            assert send(client, f"msg_{message}", json.dumps(ENDED)) == 204
            wait_until(lambda count=message: len(printed()) > count)  # type: ignore[misc]
        assert "inbox: OperationalError('no such table: gone')" in printed()
        assert "job_1 succeeded" in printed()
