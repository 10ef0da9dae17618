"""`output.publish_to`: a finished job's model lies at a place of its project's own, and nowhere else.

Slow: a job must finish first.
"""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.garbage.sweep import Sweep
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import Job, JobEvent
from app.tables.tasks import Task
from secateur.digests import tree_digest
from tests.jobs import JobMaker
from worker.publication import run as publish
from worker.task_runner import run_tasks

pytestmark = pytest.mark.slow


def finished(jobs: JobMaker, session: Session, run: Callable[..., int], place: str | None = "team/llama") -> Job:
    id = jobs.make(output={"publish_to": place})
    run()
    job = session.get_one(Job, id, populate_existing=True)
    assert job.state == "succeeded"
    return job


def copied(session: Session, job: Job) -> list[JobEvent]:
    session.rollback()
    query = select(JobEvent).where(JobEvent.job_id == job.id, JobEvent.type == "copied")
    return list(session.scalars(query))


def published(store: ObjectStore, job: Job) -> dict[str, bytes]:
    folder = f"projects/{job.project_id}/published"
    return {key.removeprefix(f"{folder}/"): store.get(key) for key, _ in store.list(folder)}


def model_of(store: ObjectStore, job: Job) -> dict[str, bytes]:
    assert job.manifest is not None
    files = [file for file in job.manifest["files"] if file["path"].startswith("model/")]
    return {file["path"].removeprefix("model/"): store.get(file["key"]) for file in files}


def test_a_finished_model_is_a_plain_folder_and_the_event_says_which(
    jobs: JobMaker, session: Session, run: Callable[..., int], settings: Settings, store: ObjectStore
) -> None:
    job = finished(jobs, session, run)
    before = job.stored_bytes
    assert run_tasks(settings, "here") >= 1
    model = model_of(store, job)
    assert model
    assert published(store, job) == {f"team/llama/{name}": data for name, data in model.items()}
    (event,) = copied(session, job)
    assert job.manifest is not None
    files = [file for file in job.manifest["files"] if file["path"].startswith("model/")]
    digest = tree_digest((file["path"].removeprefix("model/"), file["sha256"]) for file in files)
    size = sum(map(len, model.values()))
    assert event.data == {"prefix": "team/llama", "digest": digest, "files": len(model), "bytes": size}
    session.refresh(job)
    assert job.stored_bytes == before + size
    publish(job.id, lambda session: None, lambda: None, store)
    assert len(copied(session, job)) == 1


def test_without_a_place_nothing_is_copied(
    jobs: JobMaker, session: Session, run: Callable[..., int], store: ObjectStore
) -> None:
    job = finished(jobs, session, run, None)
    assert session.scalars(select(Task)).all() == []
    assert published(store, job) == {}


def test_what_a_deleted_job_left_is_not_mixed_in_and_is_swept(
    jobs: JobMaker, session: Session, run: Callable[..., int], settings: Settings, store: ObjectStore
) -> None:
    job = finished(jobs, session, run)
    folder = f"projects/{job.project_id}/published"
    store.put_bytes(f"{folder}/team/llama/old.safetensors", b"of another job")
    store.put_bytes(f"{folder}/team/llama-2/config.json", b"a neighbour without a job")
    publish(job.id, lambda session: None, lambda: None, store)
    assert set(published(store, job)) == {f"team/llama/{name}" for name in model_of(store, job)} | {
        "team/llama-2/config.json"
    }
    sweep = Sweep(store, lambda: None, age=timedelta(seconds=-60))
    assert sweep.published(job.project_id) == 1
    assert set(published(store, job)) == {f"team/llama/{name}" for name in model_of(store, job)}
    project = job.project_id
    session.execute(delete(Job).where(Job.id == job.id))
    session.commit()
    assert sweep.published(project) > 0
    assert list(store.list(folder)) == []


def test_a_job_that_is_gone_publishes_nothing(jobs: JobMaker, store: ObjectStore) -> None:
    publish("job_gone", lambda session: None, lambda: None, store)
    assert list(store.list("projects")) == []
