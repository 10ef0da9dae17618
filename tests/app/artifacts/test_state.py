"""The export of a final state."""

import hashlib
import io
import json
import tarfile

import httpx
import pytest
from sqlalchemy.orm import Session

from app.storage import ObjectStore
from app.tables.jobs import Job
from tests.app.conftest import Inputs
from tests.app.lineage.lineages import domain, publish, submit

STATE = {
    "model/model-00001-of-00003.safetensors": b"weights" * 1000,
    "model/model-00002-of-00003.safetensors": b"more",
    "state/block-0000.safetensors": b"first" * 1000,
    "state/block-0001.safetensors": b"second",
}
"""What an engine continues: not the last shard, which is the dense model's."""


def put_state(session: Session, store: ObjectStore, job: str) -> None:
    """Let the artifact's state files be in the store."""
    row = session.get_one(Job, job, populate_existing=True)
    manifest = dict(row.manifest or {})
    files = [file for file in manifest["files"] if file["path"] not in STATE]
    for path, data in STATE.items():
        key = f"jobs/{job}/{job}-1/output/{path.rpartition('/')[2]}"
        store.put_bytes(key, data)
        described = {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "key": key}
        files.append({**described, "media_type": "application/octet-stream"})
    row.manifest = {**manifest, "files": files}
    session.commit()


@pytest.fixture
def continued(api: httpx.Client, inputs: Inputs, session: Session, store: ObjectStore) -> str:
    """A published job that continues another."""
    parent = submit(api, inputs.body())
    publish(session, parent)
    job = submit(api, {"continues": parent, "domains": [domain("sales", inputs.first)]})
    publish(session, job)
    put_state(session, store, job)
    return job


def test_the_archive_has_the_state_and_says_what_it_is(api: httpx.Client, continued: str) -> None:
    response = api.get(f"/v1/jobs/{continued}/state")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/octet-stream")
    assert response.headers["content-length"] == str(len(response.content))
    assert response.headers["content-disposition"] == f'attachment; filename="{continued}-state.tar"'
    with tarfile.open(fileobj=io.BytesIO(response.content)) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    document = json.loads(found.pop("state.json"))
    assert found == STATE
    assert {file["path"]: file["sha256"] for file in document["files"]} == {
        path: hashlib.sha256(data).hexdigest() for path, data in STATE.items()
    }
    job = api.get(f"/v1/jobs/{continued}").json()
    assert (document["job"], document["spec"]) == (continued, job["spec"])
    assert document["manifest_digest"] == job["result"]["manifest_digest"]
    assert document["provenance"]["model"]["id"] == job["model"]
    assert [(each["lineage_stage"], each["domain"]) for each in document["lineage"]] == [
        (0, "law"),
        (1, "code"),
        (2, "sales"),
    ]


def test_a_broken_download_goes_on(api: httpx.Client, continued: str) -> None:
    url = f"/v1/jobs/{continued}/state"
    whole = api.get(url)
    size, tag = len(whole.content), whole.headers["etag"]
    part = api.get(url, headers={"Range": "bytes=700-1999", "If-Range": tag})
    assert (part.status_code, part.content) == (206, whole.content[700:2000])
    assert part.headers["content-range"] == f"bytes 700-1999/{size}"
    assert api.get(url, headers={"Range": "bytes=700-1999", "If-Range": '"other"'}).status_code == 200
    outside = api.get(url, headers={"Range": f"bytes={size}-"})
    assert (outside.status_code, outside.json()["code"]) == (416, "range_not_satisfiable")
    assert api.get(url, headers={"If-None-Match": tag}).status_code == 304


def test_who_may_not_and_what_is_not_there(
    api: httpx.Client, stranger: httpx.Client, continued: str, inputs: Inputs, session: Session, store: ObjectStore
) -> None:
    assert stranger.get(f"/v1/jobs/{continued}/state").status_code == 404
    waiting = submit(api, inputs.body())
    for job in (waiting, "job_never"):
        assert api.get(f"/v1/jobs/{job}/state").status_code == 404
    publish(session, waiting, manifest={"digest": "0" * 64, "files": [], "provenance": {}})
    assert api.get(f"/v1/jobs/{waiting}/state").json()["code"] == "no_artifacts"
    store.delete([key for key, _ in store.list("jobs")][:1])
    lost = api.get(f"/v1/jobs/{continued}/state")
    assert (lost.status_code, lost.json()["code"]) == (503, "unavailable"), "not half an archive"


def test_a_job_that_missed_its_gate_has_files(
    api: httpx.Client, continued: str, session: Session, store: ObjectStore
) -> None:
    failure = {"code": "gate_failed", "cause": "user", "message": "no", "field": "/gate"}
    publish(session, continued, state="failed", failure=failure)
    put_state(session, store, continued)
    assert api.get(f"/v1/jobs/{continued}/artifacts").status_code == 200
    path = next(iter(STATE))
    assert api.get(f"/v1/jobs/{continued}/artifacts/{path}").content == STATE[path]
    assert api.get(f"/v1/jobs/{continued}/state").status_code == 200
    refused = api.post(f"/v1/jobs/{continued}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "gate_failed")
    assert "continue it" in refused.json()["detail"]
