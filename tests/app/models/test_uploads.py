"""A model's own files, sent in parts to any process of the service."""

import hashlib
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.dispatch.housekeeping import forget
from app.garbage.sweep import run as sweep
from app.models import uploads
from app.quotas import service as quotas
from app.settings import Settings
from app.storage import ObjectStore, open_store
from app.tables.models import Model, ModelPart
from app.tables.tasks import Task
from tests.app.conftest import MakeKey, client_of, running

OCTETS = {"Content-Type": "application/octet-stream"}
FILES = {"config.json": b"{}", "model.safetensors": b"0123456789" * 5000}


def described(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    ]


def create(api: httpx.Client, files: dict[str, bytes] = FILES) -> str:
    source = {"type": "upload", "files": described(files)}
    response = api.post("/v1/models", json={"name": "mine", "source": source})
    assert response.status_code == 202, response.text
    assert response.json()["state"] == "uploading"
    return str(response.json()["id"])


def put(api: httpx.Client, id: str, path: str, data: bytes, offset: int = 0) -> httpx.Response:
    return api.put(f"/v1/models/{id}/files/{path}", content=data, headers={**OCTETS, "Upload-Offset": str(offset)})


def stored(session: Session, store: ObjectStore, id: str, path: str) -> bytes:
    query = select(ModelPart).where(ModelPart.model_id == id, ModelPart.path == path).order_by(ModelPart.start)
    return b"".join(store.get(part.object_key) for part in session.scalars(query))


def test_files_are_sent_in_any_parts_and_the_intake_is_asked_once(
    api: httpx.Client, session: Session, store: ObjectStore
) -> None:
    id = create(api)
    assert put(api, id, "config.json", FILES["config.json"]).headers["upload-offset"] == "2"
    weights = FILES["model.safetensors"]
    for start in range(0, len(weights), 20_000):
        response = put(api, id, "model.safetensors", weights[start : start + 20_000], start)
        assert response.status_code == 204, response.text
        received = int(response.headers["upload-offset"])
        found = api.get(f"/v1/models/{id}/files/model.safetensors")
        assert (found.json()["received"], int(found.headers["upload-offset"])) == (received, received)
    assert [file["received"] for file in api.get(f"/v1/models/{id}/files").json()["data"]] == [2, 50_000]
    assert stored(session, store, id, "model.safetensors") == weights
    for _ in range(2):
        done = api.post(f"/v1/models/{id}/complete")
        assert (done.status_code, done.json()["state"]) == (202, "pending")
    assert [(task.kind, task.subject_id) for task in session.scalars(select(Task))] == [("model_intake", id)]
    late = put(api, id, "config.json", b"{}", 2)
    assert (late.status_code, late.json()["code"]) == (409, "model_not_uploading")


def test_another_place_is_refused_with_the_right_one(api: httpx.Client) -> None:
    id = create(api)
    assert put(api, id, "model.safetensors", b"0123", 0).status_code == 204
    for offset in (0, 3, 5, 2**40):
        response = put(api, id, "model.safetensors", b"x", offset)
        assert (response.status_code, response.json()["code"]) == (409, "offset_mismatch")
        assert response.headers["upload-offset"] == "4"


def test_more_than_was_announced_is_refused(api: httpx.Client, session: Session) -> None:
    id = create(api)
    response = put(api, id, "config.json", b"{} and more")
    assert (response.status_code, response.json()["code"]) == (422, "too_many_bytes")
    assert session.scalar(select(func.count()).select_from(ModelPart)) == 0


def test_what_is_missing_is_named(api: httpx.Client) -> None:
    id = create(api)
    put(api, id, "model.safetensors", b"0123")
    response = api.post(f"/v1/models/{id}/complete")
    assert (response.status_code, response.json()["code"]) == (409, "upload_incomplete")
    assert "config.json (0 of 2 bytes), model.safetensors (4 of 50000 bytes)" in response.json()["detail"]


@pytest.mark.parametrize(
    ("files", "pointer"),
    [
        ([], "/source/files"),
        (described({"config.json": b""}), "/source/files"),
        (described({"model.safetensors": b""}), "/source/files"),
        (described(FILES) * 2, "/source/files/2/path"),
        *(
            (described(FILES) + described({name: b""}), "/source/files/2/path")
            for name in (
                "modeling.py",
                "pytorch_model.bin",
                "../config.json",
                "a/b.json",
                ".hidden.json",
                "a\0.json",
                "",
            )
        ),
        ([{**described(FILES)[0], "sha256": "ABC"}, described(FILES)[1]], "/source/files/0/sha256"),
        ([{**described(FILES)[0], "bytes": -1}, described(FILES)[1]], "/source/files/0/bytes"),
        ([{**described(FILES)[0], "url": "http://x"}, described(FILES)[1]], "/source/files/0/url"),
    ],
)
def test_only_a_models_files_are_taken(
    api: httpx.Client, files: list[Any], pointer: str, session: Session
) -> None:
    body = {"name": "mine", "source": {"type": "upload", "files": files}}
    response = api.post("/v1/models", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["pointer"].replace("/upload", "") == pointer
    assert session.scalar(select(func.count()).select_from(Model)) == 0


def test_strangers_and_unknown_files_are_not_found(api: httpx.Client, stranger: httpx.Client) -> None:
    id = create(api)
    for caller, path in ((stranger, "config.json"), (api, "other.json"), (api, "..json")):
        assert put(caller, id, path, b"{}").status_code == 404
        assert caller.get(f"/v1/models/{id}/files/{path}").status_code == 404
        assert caller.post(f"/v1/models/{id}/files/{path}/presign").status_code == 404
    assert stranger.get(f"/v1/models/{id}/files").status_code == 404
    assert stranger.post(f"/v1/models/{id}/complete").status_code == 404
    wrong = api.put(f"/v1/models/{id}/files/config.json", content=b"{}", headers={"Content-Type": "text/plain"})
    assert wrong.status_code == 415


def test_two_who_send_the_same_part_do_not_mix(
    api: httpx.Client, session: Session, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both begin at the same place; one is stored, the other is told where to go on."""
    id = create(api)
    together = threading.Barrier(2)
    keep = uploads._keep
    monkeypatch.setattr(uploads, "_keep", lambda *args: (together.wait(30), keep(*args))[1])
    answers: list[int] = []
    weights = FILES["model.safetensors"]
    threads = [
        threading.Thread(target=lambda: answers.append(put(api, id, "model.safetensors", weights).status_code))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [204, 409]
    assert stored(session, store, id, "model.safetensors") == weights
    assert len(list(store.list("projects"))) == 1


def test_what_came_before_a_connection_broke_is_kept(
    service: str, api: httpx.Client, session: Session, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PIECE", 1000)
    id = create(api)
    parts = urlsplit(service)
    key = api.headers["authorization"]
    head = (
        f"PUT /v1/models/{id}/files/model.safetensors HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
        "Content-Type: application/octet-stream\r\nContent-Length: 50000\r\n\r\n"
    )
    arrived, kept = threading.Event(), threading.Event()
    keep, write = uploads._keep, uploads.write_scratch

    def written(part: Any, data: bytes) -> None:
        write(part, data)
        if part.tell() == 25_000:
            arrived.set()

    def noted(*args: Any) -> int:
        end = keep(*args)
        if end >= 25_000:
            kept.set()
        return end

    monkeypatch.setattr(uploads, "_keep", noted)
    monkeypatch.setattr(uploads, "write_scratch", written)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(head.encode() + FILES["model.safetensors"][:25_000])
        assert arrived.wait(30)
    assert kept.wait(30)
    assert api.get(f"/v1/models/{id}/files/model.safetensors").json()["received"] == 25_000
    rest = FILES["model.safetensors"][25_000:]
    assert put(api, id, "model.safetensors", rest, 25_000).status_code == 204
    assert stored(session, store, id, "model.safetensors") == FILES["model.safetensors"]


def test_parts_may_reach_different_processes(
    api: httpx.Client, settings: Settings, make_key: MakeKey, session: Session, store: ObjectStore
) -> None:
    id = create(api)
    weights = FILES["model.safetensors"]
    assert put(api, id, "model.safetensors", weights[:30_000]).status_code == 204
    with running(settings) as url, client_of(url, make_key()) as other:
        assert put(other, id, "model.safetensors", weights[30_000:], 30_000).status_code == 204
        assert put(other, id, "config.json", b"{}").status_code == 204
    assert api.post(f"/v1/models/{id}/complete").status_code == 202
    assert stored(session, store, id, "model.safetensors") == weights


def test_uploads_that_nobody_goes_on_with_expire_and_are_swept(
    api: httpx.Client, session: Session, settings: Settings, store: ObjectStore
) -> None:
    left, alive = create(api), create(api)
    for id in (left, alive):
        put(api, id, "model.safetensors", b"0123")
    long_ago = func.now() - func.make_interval(0, 0, 0, 2)
    session.execute(update(Model).where(Model.id == left).values(updated_at=long_ago))
    session.execute(update(ModelPart).where(ModelPart.model_id == left).values(created_at=long_ago))
    session.commit()
    forget(settings)
    found = api.get(f"/v1/models/{left}").json()
    assert (found["state"], found["error"]["code"]) == ("failed", "upload_expired")
    assert api.get(f"/v1/models/{alive}").json()["state"] == "uploading"
    sweep("store", lambda: None, settings.model_copy(update={"garbage_seconds": 0}), store)
    (kept,) = store.list("projects")
    assert stored(session, store, alive, "model.safetensors") == store.get(kept[0]) == b"0123"


def test_a_store_that_takes_files_itself_is_used_directly(
    api: httpx.Client, settings: Settings, make_key: MakeKey, seaweed: Any, session: Session
) -> None:
    refused = api.post(f"/v1/models/{create(api)}/files/config.json/presign")
    assert (refused.status_code, refused.json()["code"]) == (409, "presign_unavailable")
    s3 = settings.model_copy(update=seaweed_settings(seaweed) | {"presign_downloads": True})
    with running(s3) as url, client_of(url, make_key()) as client:
        id = create(client)
        for path, data in FILES.items():
            place = client.post(f"/v1/models/{id}/files/{path}/presign").json()
            assert httpx.put(place["url"], content=data, trust_env=False).status_code == 200
        assert client.post(f"/v1/models/{id}/complete").status_code == 202
    assert stored(session, open_store(s3), id, "model.safetensors") == FILES["model.safetensors"]


def seaweed_settings(seaweed: Any) -> dict[str, Any]:
    names = {"store_url", "s3_endpoint", "s3_access_key_id", "s3_secret_access_key"}
    given = Settings.model_validate(
        {
            "database_url": "postgresql+psycopg://nobody@localhost/none",
            "broker_url": "redis://localhost",
            "secret": "s" * 32,
            "store_url": f"s3://{seaweed.bucket}/uploads",
            "s3_endpoint": seaweed.url,
            "s3_access_key_id": seaweed.access_key,
            "s3_secret_access_key": seaweed.secret_key,
        }
    )
    return {name: getattr(given, name) for name in names}


def test_a_part_ends_at_the_limit_of_an_upload(
    api: httpx.Client, settings: Settings, make_key: MakeKey, tmp_path: Path
) -> None:
    id = create(api)
    with (
        running(settings.model_copy(update={"max_upload_bytes": 1000})) as url,
        client_of(url, make_key()) as other,
    ):
        response = put(other, id, "model.safetensors", b"x" * 1001)
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
        assert put(other, id, "model.safetensors", b"x" * 1000).status_code == 204


def test_what_is_sent_straight_to_the_store_counts_and_is_not_swept_away(
    session: Session, settings: Settings, make_key: MakeKey, seaweed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = settings.model_copy(
        update=seaweed_settings(seaweed)
        | {"presign_downloads": True, "garbage_seconds": 0.0, "quota_stored_bytes": 60_000}
    )
    monkeypatch.setattr(quotas, "get_settings", lambda: s3)
    with running(s3) as url, client_of(url, make_key()) as client:
        id = create(client)
        for path, data in FILES.items():
            place = client.post(f"/v1/models/{id}/files/{path}/presign").json()
            assert httpx.put(place["url"], content=data, trust_env=False).status_code == 200
        sweep("store", lambda: None, s3, open_store(s3))
        assert client.post(f"/v1/models/{id}/complete").status_code == 202
        other = create(client)
        refused = client.post(f"/v1/models/{other}/files/model.safetensors/presign")
        assert (refused.status_code, refused.json()["code"]) == (507, "storage_quota_exceeded")
