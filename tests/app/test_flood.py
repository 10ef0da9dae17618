"""Slow: the service's own process, with as few descriptors as a bare host gives it; more callers than that, none
of whom ends the head of a request, and complaints as fast as they can be sent."""

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx
import pytest

from app.local.ports import prefer
from tests.app.bodies import connected

pytestmark = pytest.mark.slow

FILES: Final = 1024
CALLERS: Final = 1100
LOG_BYTES: Final = 100_000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "api.log"


@pytest.fixture
def url(log: Path, tmp_path: Path) -> Iterator[str]:
    """A service without anything behind it."""
    places = {
        "SECATEUR_DATABASE_URL": "postgresql+psycopg://nowhere/none",
        "SECATEUR_BROKER_URL": "redis://nowhere",
        "SECATEUR_SECRET": "-" * 32,
        "SECATEUR_STORE_URL": (tmp_path / "store").as_uri(),
        "SECATEUR_STOP_SECONDS": "1",
    }
    port = prefer(None)
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "app.serve", "--port", str(port)],
            env=os.environ | places,
            stderr=file,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES // 2, FILES)),
        )
        try:
            with httpx.Client(trust_env=False, transport=httpx.HTTPTransport(retries=20)) as client:
                while not is_live(client, f"http://127.0.0.1:{port}"):
                    assert child.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            child.terminate()
            child.wait(30)


def is_live(client: httpx.Client, url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get(f"{url}/livez").status_code == 200
    return False


def test_more_callers_than_descriptors_stop_nothing_and_fill_nothing(url: str, log: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < CALLERS + 100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack, httpx.Client(trust_env=False) as client:
        for _ in range(CALLERS):
            stack.enter_context(connected(url)).sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\n")
        for _ in range(10):
            assert is_live(client, url)
    with httpx.Client(trust_env=False) as client:
        for number in range(2000):
            client.get(f"{url}/v1/{number}")
            if number % 10 == 0:
                with connected(url) as connection:
                    connection.sendall(b"nonsense\r\n\r\n")
        assert is_live(client, url)
    assert log.stat().st_size < LOG_BYTES
