"""The whole delivery: outbox, dispatcher, broker, Celery worker, the real engine on a tiny model.

Slow: a message is lost or repeated only by a real broker and worker.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
from sqlalchemy.orm import Session

from app.outbox import Queue, notify
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import JobEvaluation, JobLease, JobMatrix
from app.tables.models import Model
from app.tables.sensitivity import TABLES
from app.tables.states import State
from app.tables.tasks import Task, TaskKind
from app.tasks import service as tasks
from tests.jobs import JobMaker, make_dataset, make_model, make_project
from tests.tiny import make_tiny_llama
from tests.worker.harness import (
    SCRIPTED,
    Watch,
    attempts,
    dispatcher,
    engines,
    gone,
    make_tiny_jobs,
    wait_until,
    worker,
)
from worker.attempt import run_jobs

pytestmark = pytest.mark.slow

BLOCKS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny"), blocks=BLOCKS)


@pytest.fixture
def jobs(session: Session, store: ObjectStore, model: Path) -> JobMaker:
    return make_tiny_jobs(session, store, model)


@pytest.fixture
def dispatch(environment: dict[str, str], settings: Settings, tmp_path: Path) -> Iterator[psutil.Process]:
    with dispatcher(environment, tmp_path / "dispatcher.log") as process:
        yield process


@pytest.fixture
def submit(jobs: JobMaker, session: Session) -> Callable[..., Watch]:
    """Queue a job and notify once."""

    def act(iterations: int = 60) -> Watch:
        # So many steps of the solver that there is a middle to disturb.
        watch = Watch(session, jobs.make(method={"name": "admm", "admm": {"iterations": iterations}}))
        notify(session, Queue.gpu, watch.id)
        session.commit()
        return watch

    return act


def test_the_supervisor_never_imports_torch(environment: dict[str, str]) -> None:
    """Neither the Celery parent nor its child: memory, start-up time, and CUDA that never meets a fork."""
    code = (
        "import sys, worker.celery, worker.attempt, worker.task_runner\n"
        "assert 'torch' not in sys.modules, 'torch is imported'"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, check=True)


def test_what_a_worker_learnt_of_its_host_holds_for_the_next_message(environment: dict[str, str]) -> None:
    code = (
        "import worker.celery, worker.attempt\n"
        "seen = []\n"
        "worker.attempt.run_jobs = lambda settings, name, backoff, gate: seen.append((backoff, gate))\n"
        "worker.celery.run_jobs()\n"
        "worker.celery.run_jobs()\n"
        "assert all(one is not None and one is other for one, other in zip(*seen, strict=True))"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, check=True)


def test_a_worker_killed_in_the_middle(
    submit: Callable[..., Watch],
    session: Session,
    settings: Settings,
    environment: dict[str, str],
    dispatch: psutil.Process,
    tmp_path: Path,
) -> None:
    """The job that nothing happens to and the one whose first worker is killed have the same artifact."""
    disturbed = submit()
    with worker(environment, tmp_path / "first.log") as first:
        disturbed.wait_for_blocks(3)
        family = [first, *first.children(recursive=True)]
        assert len(engines(first)) == 1
        os.killpg(first.pid, signal.SIGKILL)
        wait_until(lambda: gone(family), 5)
    assert disturbed.state is State.running
    undisturbed = submit()
    with worker(environment, tmp_path / "second.log", name="w2"):
        assert disturbed.wait_for_end() is State.succeeded
        assert undisturbed.wait_for_end() is State.succeeded
    one, other = disturbed.row, undisturbed.row
    assert one.result is not None
    assert one.result == other.result
    assert attempts(session, disturbed.id) == ["worker_lost", "succeeded"]
    assert one.lost_attempts == 0
    assert session.query(JobMatrix).filter_by(job_id=one.id).count() == 2 * 7 * BLOCKS
    for table in TABLES.values():
        assert session.query(table).filter_by(job_id=one.id).count() == 2 * 7 * BLOCKS
    assert session.query(JobEvaluation).filter_by(job_id=one.id).count() == 3 * 2
    assert session.query(JobLease).count() == 0


def test_sigterm_gives_the_job_back(
    submit: Callable[..., Watch],
    session: Session,
    environment: dict[str, str],
    dispatch: psutil.Process,
    tmp_path: Path,
) -> None:
    watch = submit(iterations=1000)
    with worker(environment, tmp_path / "first.log") as first:
        watch.wait_for_blocks(1)
        family = [first, *first.children(recursive=True)]
        first.terminate()
        wait_until(lambda: watch.state is not State.running, 15)
        wait_until(lambda: gone(family), 15)
    assert watch.state is State.queued
    assert attempts(session, watch.id) == ["worker_stopped"]
    assert watch.row.lost_attempts == 0


def test_many_notifications_and_a_flushed_broker(
    submit: Callable[..., Watch],
    session: Session,
    settings: Settings,
    environment: dict[str, str],
    dispatch: psutil.Process,
    tmp_path: Path,
) -> None:
    """Messages are only bells: twenty do no harm, and none is needed when the broker forgets them all."""
    watch = submit()
    for _ in range(20):
        notify(session, Queue.gpu, watch.id)
    session.commit()
    client = redis.Redis.from_url(settings.broker_url.get_secret_value())
    wait_until(lambda: client.llen("secateur:gpu") > 5)
    client.flushall()
    client.close()
    with worker(environment, tmp_path / "worker.log"):
        assert watch.wait_for_end() is State.succeeded
    assert attempts(session, watch.id) == ["succeeded"]


def test_the_cpu_queue_takes_a_model_in(
    session: Session,
    store: ObjectStore,
    settings: Settings,
    environment: dict[str, str],
    dispatch: psutil.Process,
    model: Path,
    tmp_path: Path,
) -> None:
    """And the job that waited for it can start."""
    shutil.copytree(model, settings.model_roots[0] / "tiny")
    project = make_project(session)
    pending = make_model(session, project, state="pending")
    text = make_dataset(session, project, "text", store)
    watch = Watch(session, JobMaker(session, project, pending, [text]).make())
    assert run_jobs(settings, "here", SCRIPTED) == 0
    tasks.submit(session, project, TaskKind.model_intake, pending)
    session.commit()
    with worker(environment, tmp_path / "cpu.log", queue="cpu"):
        wait_until(lambda: finished(session))
    task = intake(session)
    assert (task.state, task.error) == ("succeeded", None)
    assert session.get_one(Model, pending, populate_existing=True).state == "ready"
    assert run_jobs(settings, "here", SCRIPTED) == 1
    assert watch.state is State.succeeded


def finished(session: Session) -> bool:
    session.rollback()
    return intake(session).state in ("succeeded", "failed")


def intake(session: Session) -> Task:
    """Beside it there may be a sweep, which a finished job asks for."""
    return session.query(Task).filter_by(kind=TaskKind.model_intake).populate_existing().one()
