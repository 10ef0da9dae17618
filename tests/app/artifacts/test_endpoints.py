import base64
import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from app.artifacts.service import _VERIFYING, VERIFICATIONS, StoredFile
from app.local.servers import SeaweedServer
from app.settings import Settings
from app.storage import ObjectStore, open_store
from app.tables.jobs import Job
from tests.app.conftest import client_of, running
from tests.conftest import BUCKET

FILES = {
    "model/config.json": b'{"a": 1}',
    "model/model-00001.safetensors": bytes(range(256)) * 10_000,
    "empty": b"",
}


def publish(job: str, session: Session, store: ObjectStore) -> None:
    files = []
    for path, data in FILES.items():
        digest = hashlib.sha256(data).hexdigest()
        key = f"jobs/{job}/objects/{digest}"
        store.put_bytes(key, data)
        media = "application/json" if path.endswith(".json") else "application/octet-stream"
        files.append({"path": path, "sha256": digest, "bytes": len(data), "key": key, "media_type": media})
    manifest: dict[str, Any] = {"digest": "d" * 64, "bytes": sum(map(len, FILES.values())), "files": files}
    session.get_one(Job, job).manifest = {**manifest, "provenance": {"seed": 0}}
    session.commit()


@pytest.fixture
def published(job: str, session: Session, store: ObjectStore) -> str:
    """Address of a job's artifacts."""
    publish(job, session, store)
    return f"/v1/jobs/{job}/artifacts"


@pytest.fixture
def s3(settings: Settings, seaweed: SeaweedServer, tmp_path: Path) -> Settings:
    """The same service over an S3 server that callers can reach."""
    fields = {
        "store_url": f"s3://{BUCKET}/{tmp_path.name}",
        "s3_endpoint": seaweed.url,
        "s3_access_key_id": seaweed.access_key,
        "s3_secret_access_key": seaweed.secret_key,
        "presign_downloads": True,
    }
    return Settings.model_validate(settings.model_dump() | fields)


def test_before_publication_there_is_nothing(api: httpx.Client, job: str) -> None:
    for path in ("", "/model/config.json"):
        response = api.get(f"/v1/jobs/{job}/artifacts{path}")
        assert (response.status_code, response.json()["code"]) == (404, "no_artifacts")


def test_the_manifest_names_the_files_but_not_where_they_lie(api: httpx.Client, published: str) -> None:
    response = api.get(published)
    found = response.json()
    assert (found["object"], found["digest"], found["provenance"]) == ("manifest", "d" * 64, {"seed": 0})
    assert [(file["path"], file["bytes"]) for file in found["files"]] == [(p, len(d)) for p, d in FILES.items()]
    assert "objects/" not in response.text
    assert api.get(published, headers={"If-None-Match": response.headers["etag"]}).status_code == 304


def test_a_file_comes_with_its_digest(api: httpx.Client, published: str) -> None:
    for path, data in FILES.items():
        response = api.get(f"{published}/{path}")
        assert (response.status_code, response.content) == (200, data)
        digest = hashlib.sha256(data)
        assert response.headers["etag"] == f'"{digest.hexdigest()}"'
        assert response.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
        assert response.headers["content-length"] == str(len(data))
        assert response.headers["content-disposition"] == f'attachment; filename="{path.split("/")[-1]}"'
        head = api.head(f"{published}/{path}")
        assert (head.status_code, head.content) == (200, b"")
        for name in ("etag", "content-length", "content-type", "accept-ranges", "repr-digest"):
            assert head.headers[name] == response.headers[name]
        same = api.get(f"{published}/{path}", headers={"If-None-Match": response.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")


def test_one_range_is_served(api: httpx.Client, published: str) -> None:
    path, data = "model/model-00001.safetensors", FILES["model/model-00001.safetensors"]
    size = len(data)
    for header, start, end in [
        ("bytes=10-19", 10, 20),
        ("bytes=2000000-", 2_000_000, size),
        ("bytes=-5", size - 5, size),
    ]:
        response = api.get(f"{published}/{path}", headers={"Range": header})
        assert (response.status_code, response.content) == (206, data[start:end])
        assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    tag = response.headers["etag"]
    assert api.get(f"{published}/{path}", headers={"Range": "bytes=0-1", "If-Range": tag}).status_code == 206
    assert api.get(f"{published}/{path}", headers={"Range": "bytes=0-1", "If-Range": '"x"'}).status_code == 200
    assert api.get(f"{published}/{path}", headers={"Range": "bytes=0-1,4-5"}).content == data
    outside = api.get(f"{published}/{path}", headers={"Range": f"bytes={size}-"})
    assert (outside.status_code, outside.json()["code"]) == (416, "range_not_satisfiable")
    assert outside.headers["content-range"] == f"bytes */{size}"


def test_only_what_the_manifest_names_is_served(api: httpx.Client, published: str, settings: Settings) -> None:
    for path in (
        "model",
        "model/",
        "model/%2e%2e/model/config.json",
        "..%2f..%2fetc/passwd",
        "%2fetc%2fpasswd",
        "x",
    ):
        response = api.get(f"{published}/{path}")
        assert (response.status_code, response.json()["code"]) == (404, "file_not_found"), path


def test_a_lost_object_is_not_half_an_answer(api: httpx.Client, published: str, store: ObjectStore) -> None:
    store.delete([key for key, _ in store.list("jobs")])
    response = api.get(f"{published}/model/config.json")
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")


def test_a_name_cannot_break_out_of_its_header() -> None:
    for name in ('a"; filename=evil', "a\r\nSet-Cookie: x", "märchen.txt", "../../x"):
        header = StoredFile(f"model/{name}", "0" * 64, 0, "text/plain", "k").headers()["Content-Disposition"]
        assert header.isascii()
        assert not set(header.split("filename=", 1)[1].split('"')[1]) & set('";\r\n/')
        assert "\r" not in header


def test_s3_serves_the_bytes_itself(
    api: httpx.Client, job: str, session: Session, settings: Settings, s3: Settings
) -> None:
    publish(job, session, open_store(s3))
    key = api.headers["authorization"].removeprefix("Bearer ")
    path = f"/v1/jobs/{job}/artifacts/model/config.json"
    with running(s3) as url, client_of(url, key) as client:
        response = client.get(path)
        assert (response.status_code, response.content) == (307, b"")
        presigned = response.headers["location"]
        part = httpx.get(presigned, headers={"Range": "bytes=1-3"}, trust_env=False)
        assert (part.status_code, part.content) == (206, FILES["model/config.json"][1:4])
        streamed = client.get(path, params={"redirect": "false"}, headers={"Range": "bytes=1-3"})
        assert (streamed.status_code, streamed.content) == (206, FILES["model/config.json"][1:4])
        assert client.head(path).headers["content-length"] == "8"


def test_verifying_finds_lost_and_spoilt_files(
    api: httpx.Client, stranger: httpx.Client, published: str, job: str, store: ObjectStore
) -> None:
    whole = api.post(f"{published}/verify")
    assert whole.status_code == 200
    assert whole.json() == {"ok": True, "files": [{"path": path, "ok": True} for path in FILES]}
    keys = [f"jobs/{job}/objects/{hashlib.sha256(data).hexdigest()}" for data in FILES.values()]
    store.delete([keys[0]])
    store.put_bytes(keys[1], bytes(len(FILES["model/model-00001.safetensors"])))
    spoilt = api.post(f"{published}/verify").json()
    assert (spoilt["ok"], [file["ok"] for file in spoilt["files"]]) == (False, [False, False, True])
    assert stranger.post(f"{published}/verify").status_code == 404


def test_only_a_few_artifacts_are_verified_at_once(api: httpx.Client, published: str) -> None:
    with ExitStack() as stack:
        for _ in range(VERIFICATIONS):
            stack.enter_context(_VERIFYING)
        refused = api.post(f"{published}/verify")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
    assert api.post(f"{published}/verify").status_code == 200
