"""Both clients against the real service and its store: what they send is taken, and what they fetch is whole."""

import hashlib
from itertools import islice
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app.storage import ObjectStore
from app.tables.jobs import Job
from secateur import Client, ProblemError
from secateur.digests import tree_digest
from secateur.spec.job import JobCreate
from tests import tiny
from tests.app.conftest import Inputs, MakeKey, application, inputs, make_key, project, service  # noqa: F401
from tests.secateur.conftest import Connect

FILES = {"model/config.json": b"{}", "model/model.safetensors": bytes(range(256)) * 10_000, "empty": b""}


@pytest.fixture
def client(service: str, make_key: MakeKey, connect: Connect) -> Client:  # noqa: F811
    return connect(service, make_key())


def publish(id: str, session: Session, store: ObjectStore) -> None:
    """As a worker leaves a finished job's files."""
    files = []
    for path, data in FILES.items():
        digest = hashlib.sha256(data).hexdigest()
        key = f"jobs/{id}/objects/{digest}"
        store.put_bytes(key, data)
        media = "application/octet-stream"
        files.append({"path": path, "sha256": digest, "bytes": len(data), "key": key, "media_type": media})
    digest = tree_digest((str(file["path"]), str(file["sha256"])) for file in files)
    manifest = {"digest": digest, "bytes": sum(map(len, FILES.values())), "files": files, "provenance": {}}
    session.get_one(Job, id).manifest = manifest
    session.commit()


def test_jobs_are_submitted_listed_and_changed(client: Client, inputs: Inputs) -> None:  # noqa: F811
    body = JobCreate.model_validate(inputs.body())
    first = client.submit(body, idempotency_key="mine")
    assert client.submit(body, idempotency_key="mine")["id"] == first["id"]
    ids = [first["id"], *(client.submit(body)["id"] for _ in range(4))]
    assert [job["id"] for job in client.jobs(limit=2)] == ids[::-1]
    assert [job["id"] for job in islice(client.jobs(limit=1), 2)] == ids[:-3:-1]
    _, tag = client.tagged_job(ids[0])
    assert client.change(ids[0], if_match=tag, priority=3)["priority"] == 3
    with pytest.raises(ProblemError) as refused:
        client.change(ids[0], if_match=tag, priority=4)
    assert refused.value.status == 412
    with pytest.raises(ProblemError) as refused:
        client.submit({**inputs.body(), "sparsity": {"target": 2}})
    assert refused.value.pointers == ["/sparsity/target"]
    assert client.cancel(ids[0])["state"] == "cancelled"
    client.delete_job(ids[0])
    with pytest.raises(ProblemError) as refused:
        client.job(ids[0])
    assert (refused.value.status, refused.value.code) == (404, "job_not_found")


def test_a_dataset_and_a_model_are_sent(client: Client, tmp_path: Path) -> None:
    text, folder, told = tmp_path / "law.txt", tmp_path / "tiny", list[tuple[int, int]]()
    text.write_text("A text.\n" * 200_000)
    dataset = client.upload_dataset(text, on_bytes=lambda done, total: told.append((done, total)))
    assert (dataset["state"], dataset["name"], dataset["documents"]) == ("ready", "law", 1)
    assert told[-1] == (text.stat().st_size,) * 2
    tiny.make_tiny_llama(folder)
    told.clear()
    model = client.upload_model(folder, on_bytes=lambda done, total: told.append((done, total)))
    assert client.model(model["id"])["state"] == "pending"
    assert told[-1] == (sum(path.stat().st_size for path in folder.iterdir()),) * 2


def test_an_artifact_arrives_whole(
    client: Client,
    inputs: Inputs,  # noqa: F811
    session: Session,
    store: ObjectStore,
    tmp_path: Path,
) -> None:
    id = client.submit(inputs.body())["id"]
    publish(id, session, store)
    weights = FILES["model/model.safetensors"]
    part = tmp_path / "model" / f".model.safetensors.{hashlib.sha256(weights).hexdigest()[:16]}.part"
    part.parent.mkdir()
    part.write_bytes(weights[:1_000_000])  # of a download that was broken off
    paths = client.download(id, tmp_path)
    assert {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in paths} == FILES
    assert client.verify(id, tmp_path) == []
    assert not part.exists()
