"""Uploads under way: how many, how large, and whether the disk takes them."""

import socket
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.quotas import service
from app.quotas.catalogue import Quota
from app.settings import Settings
from app.storage import disk
from app.tables.datasets import Dataset
from tests.app.conftest import MakeKey

PATH = "/v1/datasets/upload"
NAMED = {"name": "a", "format": "txt"}
BINARY = {"Content-Type": "application/octet-stream"}
Usage = namedtuple("Usage", "total used free")
SetQuota = Callable[..., None]


@pytest.fixture
def set_quota(project: str) -> SetQuota:
    def act(**quotas: int | None) -> None:
        with transaction() as session:
            service.change(session, project, None, {Quota(name): value for name, value in quotas.items()})

    return act


def send(api: httpx.Client, body: bytes | Iterator[bytes]) -> httpx.Response:
    return api.post(PATH, params=NAMED, content=body, headers=BINARY)


class Slow:
    """An upload that announces `length` bytes and has sent some of them."""

    def __init__(self, url: str, key: str, length: int, sent: int = 10) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 0))
        head = f"POST {PATH}?name=a&format=txt HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        head += f"Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
        self._socket.sendall(head.encode() + b"x" * sent)
        self._left = length - sent

    def finish(self) -> bytes:
        self._socket.sendall(b"x" * self._left)
        return self._socket.recv(65536)

    def close(self) -> None:
        self._socket.close()


def under_way(api: httpx.Client) -> tuple[int, int]:
    quotas = api.get("/v1/usage").json()["quotas"]
    return quotas["uploads"]["used"], quotas["upload_bytes"]["used"]


def wait_for(api: httpx.Client, wanted: tuple[int, int]) -> None:
    for _ in range(600):
        if under_way(api) == wanted:
            return
        threading.Event().wait(0.05)
    raise AssertionError(under_way(api))


def test_uploads_under_way_are_counted_and_given_back(
    service: str, api: httpx.Client, make_key: MakeKey, set_quota: SetQuota
) -> None:
    set_quota(uploads=2)
    key = make_key()
    with closing(Slow(service, key, 1000)) as first, closing(Slow(service, key, 500)) as second:
        wait_for(api, (2, 1500))
        refused = send(api, b"text")
        problem = refused.json()
        assert (refused.status_code, problem["code"], problem["quota"]) == (429, "quota_exceeded", "uploads")
        assert (problem["limit"], problem["used"]) == (2, 2)
        assert int(refused.headers["retry-after"]) > 0
        assert b"201" in first.finish()
        wait_for(api, (1, 500))
        assert send(api, b"text").status_code == 201
        del second
    wait_for(api, (0, 0))


@pytest.mark.parametrize("announced", [True, False])
def test_their_bytes_are_bounded_announced_or_not(
    api: httpx.Client, set_quota: SetQuota, session: Session, announced: bool
) -> None:
    set_quota(upload_bytes=3_000_000)
    body = b"x" * 3_000_001
    refused = send(api, body if announced else iter([body[:1_000_000], body[1_000_000:]]))
    assert (refused.status_code, refused.json()["quota"]) == (429, "upload_bytes")
    assert send(api, b"x" * 3_000_000).status_code == 201
    assert under_way(api) == (0, 0)
    assert session.query(Dataset).count() == 1


@pytest.mark.parametrize("announced", [True, False])
def test_what_the_project_may_not_store_is_not_received(
    api: httpx.Client, set_quota: SetQuota, session: Session, announced: bool
) -> None:
    set_quota(stored_bytes=1000)
    assert send(api, b"x" * 600).status_code == 201
    refused = send(api, b"x" * 401 if announced else iter([b"x" * 401]))
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (507, "storage_quota_exceeded")
    assert (problem["limit"], problem["used"]) == (1000, 600)
    assert send(api, b"y" * 400).status_code == 201
    assert session.query(Dataset).count() == 2


@contextmanager
def disk_with(monkeypatch: pytest.MonkeyPatch, free: int) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(disk.shutil, "disk_usage", lambda _: Usage(1000, 1000 - free, free))
        yield


@pytest.mark.parametrize("announced", [True, False])
def test_a_disk_that_is_nearly_full_takes_no_upload(
    api: httpx.Client, monkeypatch: pytest.MonkeyPatch, settings: Settings, announced: bool
) -> None:
    """With a reserve of 50 of 1000 bytes; what is uploaded lies there twice, in the work folder and the store."""
    body = b"x" * 100
    for folder in (settings.work_dir, Path(urlsplit(settings.store_url).path)):
        folder.mkdir(exist_ok=True)
    with disk_with(monkeypatch, 249):
        refused = send(api, body if announced else iter([body]))
        assert (refused.status_code, refused.json()["code"]) == (507, "no_room")
        assert int(refused.headers["retry-after"]) > 0
        assert api.get("/v1/datasets").status_code == 200
        assert api.get("/readyz").json()["checks"]["disk"] == "ok"
    with disk_with(monkeypatch, 40):
        ready = api.get("/readyz")
        assert (ready.status_code, ready.json()["status"], ready.json()["checks"]["disk"]) == (
            200,
            "degraded",
            "failed",
        )
    with disk_with(monkeypatch, 250):
        assert send(api, body).status_code == 201


def test_json_is_no_upload(api: httpx.Client, set_quota: SetQuota) -> None:
    set_quota(uploads=0)
    assert api.post("/v1/datasets", json={"name": "law", "hub": {"id": "someone/law"}}).status_code == 202
    assert send(api, b"text").status_code == 429
