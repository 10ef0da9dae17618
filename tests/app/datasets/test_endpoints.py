import base64
import gzip
import hashlib
import json
import os
from pathlib import Path

import httpx
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.settings import Settings
from app.storage import ObjectStore
from app.tables.datasets import Dataset
from app.tables.jobs import Job
from app.tables.outbox import OutboxMessage
from app.tables.tasks import Task
from tests.app.conftest import Inputs, client_of, running

OCTETS = {"Content-Type": "application/octet-stream"}
UPLOAD = "/v1/datasets/upload"
COUNT = select(func.count()).select_from(Dataset)


def upload(api: httpx.Client, text: str, name: str = "book") -> dict[str, object]:
    query = {"name": name, "format": "txt"}
    response = api.post(UPLOAD, params=query, content=text.encode(), headers=OCTETS)
    assert response.status_code == 201, response.text
    return dict(response.json())


def test_an_uploaded_text_is_counted_hashed_and_stored(
    api: httpx.Client, store: ObjectStore, project: str, settings: Settings
) -> None:
    data = "Es war einmal\nein Käse.\n".encode()
    content = iter([data[:18], data[18:]])
    response = api.post(f"{UPLOAD}?name=märchen&format=txt", content=content, headers=OCTETS)
    assert response.status_code == 201, response.text
    found = response.json()
    digest = hashlib.sha256(data).hexdigest()
    assert found["name"] == "märchen"
    assert (found["state"], found["source"], found["format"], found["text_field"]) == (
        "ready",
        "upload",
        "txt",
        None,
    )
    assert (found["bytes"], found["documents"], found["characters"]) == (len(data), 1, len(data.decode()))
    assert found["sha256"] == digest
    assert found["upload"] == {
        "format": "txt",
        "compression": "none",
        "text_field": None,
        "bytes": len(data),
        "sha256": digest,
        "null_rows": None,
    }
    assert store.get(f"projects/{project}/datasets/{digest}") == data
    assert api.get(response.headers["location"]).json() == found
    assert list((settings.work_dir / "uploads").iterdir()) == []


def test_jsonl_is_checked_line_by_line(api: httpx.Client, session: Session, settings: Settings) -> None:
    good = b'{"body": "one"}\n{"body": "two"}\n'
    query = {"name": "lines", "format": "jsonl", "text_field": "body"}
    made = api.post(UPLOAD, params=query, content=good, headers=OCTETS)
    assert made.status_code == 201, made.text
    assert (made.json()["documents"], made.json()["text_field"]) == (2, "body")
    # Refused in the middle of a long body: the answer still arrives.
    bad = good + b'{"text": "three"}\n' + good * 100_000
    refused = api.post(UPLOAD, params=query, content=bad, headers=OCTETS)
    assert (refused.status_code, refused.json()["code"]) == (422, "dataset_refused")
    assert "line 3" in refused.json()["detail"]
    assert session.scalar(COUNT) == 1
    assert list((settings.work_dir / "uploads").iterdir()) == []


def test_the_type_and_the_parameters_must_fit(api: httpx.Client) -> None:
    fine = "name=a&format=txt"
    for query, headers, status, parameter in [
        (fine, {"Content-Type": "application/x-www-form-urlencoded"}, 415, None),
        (fine, {"Content-Type": "text/plain"}, 415, None),
        (fine, {**OCTETS, "Content-Encoding": "gzip"}, 415, None),
        ("format=txt", OCTETS, 422, "name"),
        ("name=a%0d%0ab&format=txt", OCTETS, 422, "name"),
        ("name=" + "a" * 201 + "&format=txt", OCTETS, 422, "name"),
        ("name=a&format=xlsx", OCTETS, 422, "format"),
        ("name=a", OCTETS, 422, "format"),
        (f"{fine}&compression=bz2", OCTETS, 422, "compression"),
        (f"{fine}&text_field=body", OCTETS, 422, "text_field"),
        (fine, {**OCTETS, "Content-Digest": "md5=:AAAA:"}, 422, "content-digest"),
        (fine, {**OCTETS, "Repr-Digest": "sha-256=AAAA"}, 422, "repr-digest"),
    ]:
        response = api.post(f"{UPLOAD}?{query}", content=b"text", headers=headers)
        assert response.status_code == status, (query, response.text)
        if parameter is not None:
            assert response.json()["errors"][0]["parameter"] == parameter
    assert api.post("/v1/datasets", content=b"text", headers=OCTETS).status_code == 415


def digest_of(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def test_an_announced_digest_must_be_that_of_the_bytes(api: httpx.Client, session: Session) -> None:
    for name in ("Content-Digest", "Repr-Digest"):
        for announced, status in ((digest_of(b"text"), 201), (digest_of(b"other"), 422)):
            response = api.post(
                f"{UPLOAD}?name=a&format=txt", content=b"text", headers={**OCTETS, name: announced}
            )
            assert response.status_code == status, response.text
            if status == 422:
                assert response.json()["code"] == "digest_mismatch"
    assert session.scalar(COUNT) == 2


def test_conversations_are_known_by_their_first_line(api: httpx.Client) -> None:
    line = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    data = json.dumps(line).encode()
    found = api.post(f"{UPLOAD}?name=a&format=jsonl", content=data, headers=OCTETS).json()
    assert (found["format"], found["text_field"], found["state"]) == ("chat", "messages", "ready")
    assert (found["documents"], found["characters"]) == (1, 7)
    mixed = data + b'\n{"messages": "no list"}'
    refused = api.post(f"{UPLOAD}?name=a&format=jsonl", content=mixed, headers=OCTETS)
    assert (refused.status_code, refused.json()["code"]) == (422, "dataset_refused")
    assert "line 2: has no list of messages" in refused.json()["detail"]


def test_a_file_that_must_be_read_first_is_pending_with_its_task(
    api: httpx.Client, session: Session, store: ObjectStore, project: str
) -> None:
    data = gzip.compress(b"text\none\n")
    query = {"name": "a", "format": "csv", "compression": "gzip", "text_field": "body"}
    response = api.post(UPLOAD, params=query, content=data, headers=OCTETS)
    assert response.status_code == 202, response.text
    found = response.json()
    assert (found["state"], found["bytes"], found["sha256"]) == ("pending", None, None)
    assert (found["upload"]["format"], found["upload"]["compression"]) == ("csv", "gzip")
    assert found["upload"]["sha256"] == hashlib.sha256(data).hexdigest()
    task = session.scalars(select(Task)).one()
    assert (task.kind, task.subject_id) == ("dataset_intake", found["id"])
    key = f"projects/{project}/datasets/{found['upload']['sha256']}"
    assert store.get(key) == data
    assert api.delete(f"/v1/datasets/{found['id']}").status_code == 204
    assert store.head(key) is None


def test_what_is_not_what_it_is_called_is_refused_at_once(api: httpx.Client, session: Session) -> None:
    for query, data in [
        ("format=parquet", b"text\none\n"),
        ("format=csv&compression=gzip", b"text\none\n"),
        ("format=txt&compression=zstd", gzip.compress(b"text")),
        ("format=parquet", b"PA"),
        ("format=csv", b""),
    ]:
        response = api.post(f"{UPLOAD}?name=a&{query}", content=data, headers=OCTETS)
        assert (response.status_code, response.json()["code"]) == (422, "dataset_refused"), query
    assert session.scalar(COUNT) == 0


def test_uploads_end_at_their_limit(settings: Settings, api: httpx.Client, session: Session) -> None:
    key = api.headers["authorization"].removeprefix("Bearer ")
    small = settings.model_copy(update={"max_upload_bytes": 3_000_000})
    with running(small) as url, client_of(url, key) as client:
        for content in (b"a" * 3_000_001, iter([b"a" * 1_000_000] * 4)):
            response = client.post(f"{UPLOAD}?name=a&format=txt", content=content, headers=OCTETS)
            assert (response.status_code, response.json()["code"]) == (413, "too_large")
        fits = client.post(f"{UPLOAD}?name=a&format=txt", content=b"a" * 3_000_000, headers=OCTETS)
        assert fits.status_code == 201
        # JSON keeps its own, smaller limit.
        response = client.post(
            "/v1/datasets", content=b" " * 2_000_000, headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 413
    assert session.scalar(COUNT) == 1
    assert list((settings.work_dir / "uploads").iterdir()) == []


def test_a_hub_reference_becomes_a_task(api: httpx.Client, session: Session) -> None:
    hub = {"id": "Salesforce/wikitext", "config": "wikitext-2-raw-v1", "split": "test"}
    response = api.post("/v1/datasets", json={"name": "wiki", "hub": hub})
    assert response.status_code == 202, response.text
    found = response.json()
    assert (found["state"], found["source"], found["bytes"]) == ("pending", "hub", None)
    assert found["hub"] == {**hub, "revision": "main", "text_field": None}
    task = session.scalars(select(Task)).one()
    assert (task.kind, task.subject_id, task.state) == ("dataset_fetch", found["id"], "queued")
    assert [(row.queue, row.hint) for row in session.scalars(select(OutboxMessage))] == [("cpu", task.id)]


def test_hub_references_are_names_and_nothing_else(api: httpx.Client, session: Session) -> None:
    for change in [
        {"id": "../etc"},
        {"id": "http://169.254.169.254/x"},
        {"id": "a/b/c"},
        {"id": "a/../b"},
        {"id": "/etc/passwd"},
        {"id": "~/x"},
        {"id": "a\n"},
        {"id": "a/b", "revision": "../../x"},
        {"id": "a/b", "revision": "a//b"},
        {"id": "a/b", "split": "train[:10%]"},
        {"id": "a/b", "config": "../x"},
        {"id": "a/b", "data_files": "http://x"},
        {"id": 1},
    ]:
        response = api.post("/v1/datasets", json={"name": "x", "hub": change})
        assert response.status_code == 422, change
        assert response.json()["errors"][0]["pointer"].startswith("/hub/"), change
    assert session.scalar(COUNT) == 0


def test_lists_page_by_cursor(api: httpx.Client) -> None:
    made = [upload(api, f"text {number}", f"n{number}")["id"] for number in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page = api.get("/v1/datasets", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        assert page["object"] == "list"
        assert len(page["data"]) <= 2
        seen += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


def test_the_last_dataset_takes_the_text_along(api: httpx.Client, store: ObjectStore, project: str) -> None:
    first, second = upload(api, "same"), upload(api, "same")
    key = f"projects/{project}/datasets/{first['sha256']}"
    assert api.delete(f"/v1/datasets/{first['id']}").status_code == 204
    assert store.head(key) == 4
    assert api.delete(f"/v1/datasets/{second['id']}").status_code == 204
    assert store.head(key) is None
    assert api.delete(f"/v1/datasets/{second['id']}").status_code == 404


def test_unfinished_jobs_keep_their_datasets(
    api: httpx.Client, inputs: Inputs, job: str, session: Session
) -> None:
    refused = api.delete(f"/v1/datasets/{inputs.first}")
    assert (refused.status_code, refused.json()["code"]) == (409, "dataset_in_use")
    assert job in refused.json()["detail"]
    session.execute(update(Job).values(state="succeeded"))
    session.commit()
    assert api.delete(f"/v1/datasets/{inputs.first}").status_code == 204
    assert api.get(f"/v1/jobs/{job}").json()["spec"]["domains"][0]["dataset"] == inputs.first


def test_an_upload_clears_away_what_dead_processes_left(api: httpx.Client, settings: Settings) -> None:
    folder = settings.work_dir / "uploads"
    folder.mkdir(parents=True)
    old, fresh = folder / "upload-old", folder / "upload-fresh"
    for path in (old, fresh):
        path.write_text("half")
    os.utime(old, (0, 0))
    upload(api, "text")
    assert [path.name for path in folder.iterdir()] == [fresh.name]


def test_a_full_disk_is_not_the_callers_fault(settings: Settings, api: httpx.Client, tmp_path: Path) -> None:
    key = api.headers["authorization"].removeprefix("Bearer ")
    (tmp_path / "file").write_text("in the way")
    broken = settings.model_copy(update={"work_dir": tmp_path / "file"})
    with running(broken) as url, client_of(url, key) as client:
        response = client.post(f"{UPLOAD}?name=a&format=txt", content=b"text", headers=OCTETS)
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert str(tmp_path) not in response.text
