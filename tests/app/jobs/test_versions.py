"""One tag never has two bodies: of a job that runs, and of one whose columns anybody writes."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from app.jobs.documents import PROGRESS
from app.jobs.schemas import JobRead
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import Job, JobProgress
from app.tables.states import State
from tests.app.conftest import Inputs, MakeKey, client_of
from tests.worker.harness import SCRIPTED, make_tiny_jobs
from worker.attempt import run_jobs

OTHER: dict[str, Any] = {
    "state": "running",
    "phase": "pruning",
    "labels": {"other": "value"},
    "failure": {"code": "x", "cause": "user", "message": "y", "field": None},
    "result": {"manifest_digest": "0" * 64, "bytes": 1, "files": 1},
}
"""New values of the columns whose type does not say one."""
FIXED = {"id", "project_id", "version", "model_id", "retry_of", "continues"}
"""Columns that are keys, or what the test is about."""


def another(column: Any) -> Any:
    kind = column.type.python_type
    values = {int: 77, float: 7.5, str: "other", datetime: datetime(2020, 1, 1, tzinfo=UTC), object: {"a": 1}}
    return OTHER.get(column.name, values[kind])


@pytest.mark.parametrize("name", sorted(set(Job.__table__.columns.keys()) - FIXED))
def test_a_column_that_shows_raises_the_version(api: httpx.Client, job: str, session: Session, name: str) -> None:
    before = api.get(f"/v1/jobs/{job}")
    value = another(Job.__table__.columns[name])
    if name == "spec":
        value = {**before.json()["spec"], "sparsity": {**before.json()["spec"]["sparsity"], "target": 0.25}}
    session.execute(update(Job.__table__).where(Job.__table__.c.id == job).values({name: value}))
    session.commit()
    after = api.get(f"/v1/jobs/{job}")
    assert (before.content == after.content) == (before.headers["etag"] == after.headers["etag"])


def test_what_does_not_show_raises_nothing(api: httpx.Client, job: str, session: Session) -> None:
    before = api.get(f"/v1/jobs/{job}")
    session.execute(text("UPDATE jobs SET notified_at = now(), notifications = 3, updated_at = now()"))
    session.commit()
    after = api.get(f"/v1/jobs/{job}")
    assert (after.content, after.headers["etag"]) == (before.content, before.headers["etag"])


def test_a_deleted_parent_raises_its_retrys_version(api: httpx.Client, inputs: Inputs, job: str) -> None:
    api.post(f"/v1/jobs/{job}/cancel")
    retry = api.post(f"/v1/jobs/{job}/retry").json()["id"]
    before = api.get(f"/v1/jobs/{retry}")
    assert api.delete(f"/v1/jobs/{job}").status_code == 204
    after = api.get(f"/v1/jobs/{retry}")
    assert (before.json()["retry_of"], after.json()["retry_of"]) == (job, None)
    assert before.headers["etag"] != after.headers["etag"]


def test_progress_that_is_written_anew_has_no_old_number(api: httpx.Client, job: str, session: Session) -> None:
    seen: dict[str, bytes] = {}
    for fraction in (0.25, 0.5, 0.25):
        session.query(JobProgress).filter_by(job_id=job).delete()
        session.add(JobProgress(job_id=job, phase="pruning", fraction=fraction))
        session.commit()
        response = api.get(f"/v1/jobs/{job}")
        assert response.headers["etag"] not in seen
        seen[response.headers["etag"]] = response.content


def test_the_answer_is_what_the_schema_says(api: httpx.Client, job: str, session: Session) -> None:
    row = session.get_one(Job, job)
    row.failure = {"code": "x", "cause": "user", "message": "m", "field": None, "fingerprint": "hidden"}
    row.result = {"manifest_digest": "0" * 64, "bytes": 1, "files": 1, "warnings": [{"code": "c", "message": "m"}]}
    row.max_runtime_seconds = 3600
    session.add(JobProgress(job_id=job, phase="pruning", fraction=0.25, stage=0, stages=2, domain="law"))
    session.commit()
    shown = api.get(f"/v1/jobs/{job}").json()
    assert shown == JobRead.model_validate(shown).model_dump(mode="json")
    assert shown == api.get("/v1/jobs").json()["data"][0]
    assert shown["limits"] == {"max_runtime": "1h", "max_pending": None}
    assert shown["result"]["warnings"] == [{"code": "c", "message": "m", "data": {}}]
    assert "fingerprint" not in shown["failure"]
    assert len(PROGRESS) == len(shown["progress"]) + 1


@pytest.mark.slow
def test_a_tag_has_one_body_while_a_job_runs(
    service: str, session: Session, store: ObjectStore, settings: Settings, make_key: MakeKey
) -> None:
    """Slow: a whole attempt of the scripted engine, with all that it writes down on its way."""
    jobs = make_tiny_jobs(session, store, None)
    id = jobs.make()
    bodies: dict[str, set[bytes]] = {}
    ended = threading.Event()

    def watch() -> None:
        with client_of(service, make_key()) as caller:
            paths = (f"/v1/jobs/{id}", f"/v1/jobs/{id}/artifacts", f"/v1/jobs/{id}/state", "/v1/methods")
            while not ended.is_set():
                for response in map(caller.get, paths):
                    if response.status_code == 200:
                        tag = response.url.path + response.headers["etag"]
                        bodies.setdefault(tag, set()).add(response.content)

    with ThreadPoolExecutor(2) as pool:
        watchers = [pool.submit(watch) for _ in range(2)]
        try:
            assert run_jobs(settings, "here", [*SCRIPTED]) == 1
        finally:
            time.sleep(0.2)  # for a last look at the end
            ended.set()
        for each in watchers:
            each.result()
    session.expire_all()
    assert session.scalar(select(Job.state).where(Job.id == id)) == State.succeeded
    assert len(bodies) > 5
    assert {tag: len(found) for tag, found in bodies.items() if len(found) > 1} == {}
