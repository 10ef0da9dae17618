"""The receiver that docs/api.md shows takes what the sender signs, and nothing else."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from app.tables.webhooks import Webhook
from app.webhooks.secrets import secret_of, signed_headers

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
PEPPER = "x" * 32
SECRET = secret_of(Webhook(id="whk_1", secret_version=1), PEPPER)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL of the page's receiver, and what it prints."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = tmp_path / "output"
    environment = os.environ | {"WEBHOOK_SECRET": SECRET, "PORT": str(port)}
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", example], env=environment, stdout=file, stderr=file)
    deadline = time.monotonic() + 60
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/", output
    process.kill()
    process.wait()


def test_the_receiver_of_the_page_takes_what_is_signed_and_nothing_else(receiver: tuple[str, Path]) -> None:
    url, output = receiver
    body, now = '{"type": "job.transition", "data": {}}', datetime.now(UTC)
    good = signed_headers("msg_1", body, [secret_of(Webhook(id="whk_2", secret_version=1), PEPPER), SECRET], now)
    late = signed_headers("msg_2", body, [SECRET], now - timedelta(minutes=6))
    with httpx.Client(trust_env=False) as client:
        assert client.post(url, headers=good, content=body).status_code == 204
        for headers, content in (
            (good, body + " "),
            (late, body),
            ({}, body),
            ({**good, "webhook-id": "x"}, body),
        ):
            assert client.post(url, headers=headers, content=content).status_code == 401
    assert "msg_1 job.transition" in output.read_text()
