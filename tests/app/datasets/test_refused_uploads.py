"""A refused upload is answered with its refusal, however much of it was read and however it was sent.

Only bodies that are longer than the sockets hold show it.
"""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest

from app.settings import Settings
from tests import command_line
from tests.app.conftest import MakeKey, running
from tests.pairs import pairs

pytestmark = pytest.mark.slow

LIMIT: Final = 5 * 2**20
SHORT: Final = 10_000
LONG: Final = 4 * 2**20
"""Bytes; more than the sockets of both sides hold while nobody reads."""
SEND_BUFFER: Final = 2**16
GOOD: Final = b'{"text": "' + b"a line, " * 500 + b'"}\n'
OCTETS: Final = "application/octet-stream"
QUERY: Final = "name=a&format=jsonl"

# What is sent: beginning and end of a body whose middle is as long as wanted.
BODIES: Final = {
    "first line": (b"not JSON\n", b""),
    "second line": (GOOD + b'{"body": 1}\n', b""),
    "byte order mark": (b"\xef\xbb\xbf", b""),
    "last line": (b"", b'{"text": "cut'),
    "last byte": (b"", b'{"text": "\xc3'),
    "half a pair": (b"", b'{"text": "\\ud800"}'),
}


@pytest.fixture
def service(settings: Settings) -> Iterator[str]:
    """A service that takes uploads of LIMIT bytes."""
    with running(settings.model_copy(update={"max_upload_bytes": LIMIT})) as url:
        yield url


def body_of(case: str, size: int) -> bytes:
    head, tail = BODIES[case]
    return head + GOOD * ((size - len(head) - len(tail)) // len(GOOD)) + tail


def chunked(body: bytes) -> bytes:
    pieces = [body[at : at + 60_000] for at in range(0, len(body), 60_000)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def ask(
    url: str, key: str | None, query: str, headers: dict[str, str], body: bytes, sent: int | None = None
) -> int:
    """Status of the answer to a caller who reads nothing before he has sent `sent` bytes (all) of the body."""
    parts = urlsplit(url)
    lines = [
        f"POST /v1/datasets/upload?{query} HTTP/1.1",
        "Host: tests",
        *(f"{name}: {text}" for name, text in headers.items()),
    ]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body[:sent])
        answer = connection.makefile("rb")
        status = int(answer.readline().split()[1])
        length = next(int(line.split(b":")[1]) for line in answer if line.lower().startswith(b"content-length"))
        while answer.readline().strip():
            pass
        problem = answer.read(length)
    assert len(problem) == length
    assert b"request_id" in problem
    return status


REFUSALS: Final = {
    **{case: (QUERY, OCTETS, case, 422) for case in BODIES},
    "no name": ("format=jsonl", OCTETS, "last line", 422),
    "unknown parameter": (f"{QUERY}&nme=b", OCTETS, "last line", 422),
    "wrong type": (QUERY, "text/html", "last line", 415),
}


@pytest.mark.parametrize(
    ("sending", "closing", "size"), pairs(["length", "chunked"], ["keep-alive", "close"], [SHORT, LONG])
)
def test_every_refusal_arrives(service: str, make_key: MakeKey, sending: str, closing: str, size: int) -> None:
    """Nothing, a part or all of the body has been read when the upload is refused."""
    keys = {"no key": None, "no scope": make_key(scopes=["data:read"])}
    cases = REFUSALS | {
        "no key": (QUERY, OCTETS, "last line", 401),
        "no scope": (QUERY, OCTETS, "last line", 403),
    }
    good = make_key()
    for case, (query, kind, text, status) in cases.items():
        body = body_of(text, size)
        length = {"Content-Length": str(len(body))} if sending == "length" else {"Transfer-Encoding": "chunked"}
        headers = {"Content-Type": kind, "Connection": closing, **length}
        wire = body if sending == "length" else chunked(body)
        assert ask(service, keys.get(case, good), query, headers, wire) == status, case


@pytest.mark.parametrize("size", [LIMIT + 1, 3 * LIMIT])
def test_too_long_a_body_is_told_so(service: str, make_key: MakeKey, size: int) -> None:
    body = GOOD * (size // len(GOOD) + 1)
    headers = {"Content-Type": OCTETS, "Connection": "close"}
    announced = {**headers, "Content-Length": str(len(body))}
    assert ask(service, make_key(), QUERY, announced, body) == 413
    assert ask(service, make_key(), QUERY, {**headers, "Transfer-Encoding": "chunked"}, chunked(body)) == 413


def test_the_answer_does_not_wait_for_the_rest(service: str, make_key: MakeKey) -> None:
    """A caller who stops in the middle and listens."""
    for text, query, sent in (("first line", QUERY, LONG // 2), ("last line", "", 1000)):
        body = body_of(text, LONG)
        headers = {"Content-Type": OCTETS, "Content-Length": str(len(body))}
        assert ask(service, make_key(), query, headers, body, sent) == 422


def test_a_connection_serves_on_after_a_refusal(service: str, make_key: MakeKey) -> None:
    headers = {"Authorization": f"Bearer {make_key()}", "Content-Type": OCTETS}
    with httpx.Client(base_url=service, headers=headers, timeout=60, trust_env=False) as client:
        for case in BODIES:
            refused = client.post(f"/v1/datasets/upload?{QUERY}", content=body_of(case, 2**20))
            assert (refused.status_code, refused.json()["code"]) == (422, "dataset_refused")
        assert client.post(f"/v1/datasets/upload?{QUERY}", content=GOOD).status_code == 201


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_the_command_line_says_what_was_refused(
    service: str,
    make_key: MakeKey,
    size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SECATEUR_URL", service)
    monkeypatch.setenv("SECATEUR_API_KEY", make_key())
    path = tmp_path / "text.jsonl"
    for case, reason in {
        "first line": "line 1: is not JSON",
        "second line": "line 2: has no string",
        "last line": "is not JSON",
        "last byte": "is not UTF-8",
        "half a pair": "surrogate",
    }.items():
        path.write_bytes(body_of(case, size))
        code, out, said = command_line.call(("datasets", "add", str(path)), monkeypatch, capsys)
        assert (code != 0, out) == (True, ""), case
        assert reason in said, said
    path.write_bytes(GOOD * (LIMIT // len(GOOD) + 1))
    code, _, said = command_line.call(("datasets", "add", str(path)), monkeypatch, capsys)
    assert code != 0
    assert f"at most {LIMIT} bytes" in said
