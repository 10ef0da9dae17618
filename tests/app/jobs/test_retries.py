"""A retry begins where the job before it stopped."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery import checkpoint, input_digests
from app.delivery.claim import claim
from app.tables.jobs import Job, JobBlock, JobTask
from app.tables.models import Model
from app.tables.outbox import OutboxMessage
from tests.app.conftest import Inputs
from tests.app.jobs.test_control import events, put
from tests.app.jobs.test_read import fill
from tests.records import task_result


@pytest.fixture
def failed(api: httpx.Client, job: str, session: Session) -> str:
    """A job that failed after its first stage."""
    fill(session, job)
    files = [{"role": "weights", "path": "stage-00/model/0", "sha256": "0" * 64, "bytes": 1, "key": "k"}]
    session.execute(update(JobBlock).values(files=files))
    row = session.get_one(Job, job)
    row.basis = {**input_digests.current(session, row), "threads": 3}
    session.commit()
    put(session, job, state="failed", fence=4, attempts=4, runtime_seconds=99.0, finished_at=func.now())
    return job


def retry(api: httpx.Client, job: str) -> dict[str, Any]:
    response = api.post(f"/v1/jobs/{job}/retry")
    assert response.status_code == 201, response.text
    return dict(response.json())


def test_everything_that_was_computed_is_there(api: httpx.Client, failed: str, session: Session) -> None:
    new = retry(api, failed)
    old = api.get(f"/v1/jobs/{failed}").json()
    assert (new["retry_of"], new["state"], new["attempts"]) == (failed, "queued", 0)
    assert (new["runtime_seconds"], new["losses"]["lost_attempts"]) == (0.0, 0)
    assert all(new[name] == old[name] for name in ("spec", "spec_digest", "labels", "priority", "limits"))
    for part in ("stages", "matrices", "sensitivity", "sensitivity?basis=accumulated"):
        data = (api.get(f"/v1/jobs/{id}/{part}").json()["data"] for id in (new["id"], failed))
        mine, theirs = ([row | {"job": ""} for row in rows] for rows in data)
        assert mine == theirs
        assert mine
    mine, theirs = (api.get(f"/v1/jobs/{id}/evaluation").text for id in (new["id"], failed))
    assert mine == theirs.replace(failed, new["id"])
    assert checkpoint.load(session, new["id"]) == checkpoint.load(session, failed)
    assert checkpoint.load(session, new["id"]).threads == 3
    assert session.query(OutboxMessage).filter_by(hint=new["id"]).count() == 1


def test_both_jobs_say_what_happened(api: httpx.Client, failed: str) -> None:
    new = retry(api, failed)["id"]
    assert events(api, failed)[-1]["data"] == {"job": new}
    assert [(event["type"], event["data"]) for event in events(api, new)] == [
        ("created", {"state": "queued"}),
        ("taken_over", {"job": failed, "blocks": 2}),
    ]


def test_blocks_of_the_old_job_are_no_progress_of_the_new_one(
    api: httpx.Client, failed: str, session: Session
) -> None:
    new = retry(api, failed)["id"]
    assert {row.attempt for row in session.query(JobBlock).filter_by(job_id=new)} == {0}
    with transaction() as other:
        taken = claim(other, "w", 60)
        assert taken is not None
        assert (taken.lease.job_id, taken.lease.attempt) == (new, 1)


def test_tasks_are_taken_over_but_for_the_one_that_the_job_ended_in(
    api: httpx.Client, failed: str, session: Session
) -> None:
    done = task_result(0).model_dump(exclude={"type"})
    for number, scores in enumerate((done, None)):
        session.add(JobTask(job_id=failed, task=number, model="dense", scores=scores, attempt=1))
    session.commit()
    new = retry(api, failed)["id"]
    rows = session.query(JobTask).filter_by(job_id=new)
    assert [(row.task, row.scores, row.attempt) for row in rows] == [(0, done, 0)]


def test_a_job_is_retried_once(api: httpx.Client, failed: str, session: Session) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.post(f"/v1/jobs/{failed}/retry"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    (new,) = {answer.json()["id"] for answer in answers}
    assert all(answer.headers["location"] == f"/v1/jobs/{new}" for answer in answers)
    put(session, new, state="failed")
    assert api.post(f"/v1/jobs/{failed}/retry").json()["state"] == "failed"
    third = retry(api, new)
    assert third["retry_of"] == new
    assert session.get_one(Job, third["id"]).root == failed
    assert len(api.get(f"/v1/jobs/{third['id']}/matrices").json()["data"]) == 4


def test_a_job_that_computed_nothing_starts_anew(api: httpx.Client, job: str, session: Session) -> None:
    put(session, job, state="cancelled")
    new = retry(api, job)["id"]
    assert [row["state"] for row in api.get(f"/v1/jobs/{new}/stages").json()["data"]] == ["pending"] * 2
    assert [event["type"] for event in events(api, new)] == ["created"]


def test_a_checkpoint_whose_files_are_gone_is_not_taken_over(
    api: httpx.Client, failed: str, session: Session
) -> None:
    put(session, failed, checkpoint_dropped_at=func.now())
    new = retry(api, failed)["id"]
    assert checkpoint.load(session, new) == checkpoint.Checkpoint()
    assert [row["state"] for row in api.get(f"/v1/jobs/{new}/stages").json()["data"]] == ["pending"] * 2


def test_changed_inputs_are_refused_by_name(api: httpx.Client, failed: str, session: Session) -> None:
    session.execute(update(Model).values(digest="f" * 64))
    session.commit()
    refused = api.post(f"/v1/jobs/{failed}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "inputs_changed")
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/model"]
    spec = api.get(f"/v1/jobs/{failed}").json()["spec"]
    put(session, failed, spec={**spec, "sparsity": {**spec["sparsity"], "target": 0.6}})
    assert [error["pointer"] for error in api.post(f"/v1/jobs/{failed}/retry").json()["errors"]] == ["", "/model"]
    assert session.query(Job).count() == 1


def test_inputs_that_are_gone_are_refused_by_name(
    api: httpx.Client, failed: str, inputs: Inputs, session: Session
) -> None:
    assert api.delete(f"/v1/datasets/{inputs.second}").status_code == 204
    refused = api.post(f"/v1/jobs/{failed}/retry")
    assert (refused.status_code, refused.json()["code"]) == (422, "input_refused")
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/domains/0/evaluation"]
