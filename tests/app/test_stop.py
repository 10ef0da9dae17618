"""A server that is asked to stop loses no call: polls are answered, uploads end or are refused, downloads go on.

Slow: a real process gets a real signal; only that shows what the server does with open connections.
"""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.storage import ObjectStore
from app.tables.jobs import Job
from tests.app.conftest import Inputs, MakeKey, client_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STOP_SECONDS = 5
"""Of which an upload may use three."""


class Api:
    """The API as a process of its own."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "api.log"
        command = [sys.executable, "-m", "app.serve", "--port", str(self.port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/readyz", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
        raise AssertionError(self.log.read_text())

    def wait_for_callers(self, count: int) -> None:
        """Until so many are accepted, and a second more, because nothing says that their heads have been read."""
        deadline, server = time.monotonic() + 60, psutil.Process(self.process.pid)
        while (
            sum(each.status == "ESTABLISHED" and each.laddr.port == self.port for each in server.net_connections())
            < count
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)


@contextmanager
def api_process(environment: dict[str, str], folder: Path) -> Iterator[Api]:
    api = Api(environment, folder)
    try:
        api.wait_until_ready()
        yield api
    finally:
        api.process.kill()
        api.process.wait()


@pytest.fixture
def api_of(environment: dict[str, str], tmp_path: Path) -> Iterator[Api]:
    own = {**os.environ, **environment, "SECATEUR_STOP_SECONDS": str(STOP_SECONDS)}
    with api_process(own, tmp_path) as api:
        yield api


def held(url: str, key: str, path: str, tag: str | None) -> httpx.Response:
    with client_of(url, key) as client:
        return client.get(path, params={"wait": 60}, headers={} if tag is None else {"If-None-Match": tag})


def test_a_restart_answers_whoever_waits(api_of: Api, make_key: MakeKey, inputs: Inputs, session: Session) -> None:
    key = make_key()
    with client_of(api_of.url, key) as client, ThreadPoolExecutor(20) as pool:
        made = client.post("/v1/jobs", json=inputs.body())
        path, tag = f"/v1/jobs/{made.json()['id']}", made.headers.get("etag") or ""
        tag = client.get(path).headers["etag"]
        plan = f"/v1/plans/{client.post('/v1/plans', json=inputs.body()).json()['id']}"
        for_change = [pool.submit(held, api_of.url, key, path, tag) for _ in range(5)]
        for_end = [pool.submit(held, api_of.url, key, path, None) for _ in range(5)]
        for_plan = pool.submit(held, api_of.url, key, plan, None)
        api_of.wait_for_callers(12)
        asked = time.monotonic()
        api_of.process.send_signal(signal.SIGTERM)
        assert {each.result().status_code for each in for_change} == {304}
        assert {each.result().json()["state"] for each in for_end} == {"queued"}
        assert for_plan.result().json()["state"] == "pending"
        assert time.monotonic() - asked < STOP_SECONDS
    assert api_of.process.wait(STOP_SECONDS + 10) == -signal.SIGTERM
    assert "Traceback" not in api_of.log.read_text()


def send_head(port: int, key: str, length: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    head = (
        "POST /v1/datasets/upload?name=late&format=txt HTTP/1.1\r\nHost: api\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    connection.sendall(head.encode() + b"words ")
    return connection


def answer(connection: socket.socket) -> bytes:
    connection.settimeout(30)
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


def test_uploads_end_in_time_or_are_told_to_come_again(api_of: Api, make_key: MakeKey, project: str) -> None:
    key = make_key()
    with send_head(api_of.port, key, 12) as quick, send_head(api_of.port, key, 10**6) as slow:
        api_of.wait_for_callers(2)
        api_of.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        quick.sendall(b"words ")
        taken, refused = answer(quick), answer(slow)
    assert taken.startswith(b"HTTP/1.1 201"), taken
    assert refused.startswith(b"HTTP/1.1 503"), refused
    assert b"application/problem+json" in refused
    assert b"\r\nretry-after: " in refused.lower()
    assert api_of.process.wait(STOP_SECONDS + 10) == -signal.SIGTERM
    assert "Traceback" not in api_of.log.read_text()


def test_a_download_goes_on_while_the_server_stops(
    api_of: Api, make_key: MakeKey, inputs: Inputs, session: Session, store: ObjectStore
) -> None:
    key, content = make_key(), os.urandom(2**23)
    with client_of(api_of.url, key) as client:
        id = client.post("/v1/jobs", json=inputs.body()).json()["id"]
    digest = hashlib.sha256(content).hexdigest()
    store.put_bytes("jobs/test/objects/file", content)
    file = {"path": "model/file", "sha256": digest, "bytes": len(content), "key": "jobs/test/objects/file"}
    manifest = {"digest": digest, "files": [{**file, "media_type": "application/octet-stream"}]}
    session.execute(update(Job).where(Job.id == id).values(manifest=manifest))
    session.commit()
    with socket.create_connection(("127.0.0.1", api_of.port)) as connection:
        connection.settimeout(30)
        head = f"GET /v1/jobs/{id}/artifacts/model/file HTTP/1.1\r\nHost: api\r\n"
        connection.sendall(f"{head}Authorization: Bearer {key}\r\n\r\n".encode())
        received = bytearray(connection.recv(1000))
        api_of.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)  # the rest is sent by a server that is about to end
        received += answer(connection)
    start, _, body = bytes(received).partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 200")
    assert (len(body), body) == (len(content), content)
    assert api_of.process.wait(STOP_SECONDS + 10) == -signal.SIGTERM
