"""Jobs over a tiny real model, and worker processes that run them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy.orm import Session

from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import Job, JobAttempt, JobBlock
from app.tables.states import TERMINAL, State
from tests import tiny
from tests.jobs import JobMaker, make_dataset, make_model, make_project
from tests.machines import cpu
from worker.attempt.machine import kept_at

SCRIPTED = (sys.executable, "-P", str(Path(__file__).with_name("scripted_engine.py")))
"""An engine of the standard library: the real protocol, the real isolation, no torch."""


def make_tiny_jobs(session: Session, store: ObjectStore, model: Path | None, domains: int = 2) -> JobMaker:
    """A maker whose model and texts are in the store."""
    project = make_project(session)
    model_id = make_model(session, project, model, store)
    texts = [make_dataset(session, project, tiny.text(800, seed), store) for seed in range(domains)]
    evaluation = make_dataset(session, project, tiny.text(400, 99), store)
    maker = JobMaker(session, project, model_id, texts, evaluation)
    session.commit()
    return maker


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return as soon as it holds; fail after the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


@dataclass
class Watch:
    """One job seen from outside."""

    session: Session
    id: str

    @property
    def row(self) -> Job:
        self.session.rollback()
        return self.session.get_one(Job, self.id, populate_existing=True)

    @property
    def state(self) -> State:
        return State(self.row.state)

    def blocks(self) -> int:
        self.session.rollback()
        return self.session.query(JobBlock).filter_by(job_id=self.id).count()

    def wait_for_blocks(self, count: int) -> None:
        wait_until(lambda: self.blocks() >= count)

    def wait_for_end(self, seconds: float = 90) -> State:
        wait_until(lambda: self.state in TERMINAL, seconds)
        return self.state


def attempts(session: Session, job: str) -> list[str | None]:
    """How the job's attempts ended, in their order; None for one that goes on."""
    session.rollback()
    rows = session.query(JobAttempt).filter_by(job_id=job).order_by(JobAttempt.number).populate_existing()
    return [row.outcome for row in rows]


@contextmanager
def process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[psutil.Process]:
    """A process with its own group; all of its descendants are gone afterwards."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    found = psutil.Process(started.pid)
    try:
        yield found
    finally:
        family = descendants(found)
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        for member in family:
            if member.is_running():
                member.kill()


def descendants(root: psutil.Process) -> list[psutil.Process]:
    """Children of all degrees that live now."""
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def engines(root: psutil.Process) -> list[psutil.Process]:
    """Engine processes below a worker."""

    def is_engine(process: psutil.Process) -> bool:
        try:
            return "--report-fd" in process.cmdline()
        except psutil.Error:
            return False

    return [process for process in descendants(root) if is_engine(process)]


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them lives (a zombie does not)."""

    def lives(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return not any(map(lives, processes))


def worker(
    environment: dict[str, str], log: Path, queue: str = "gpu", name: str = "w1", app: str = "worker.celery"
) -> AbstractContextManager[psutil.Process]:
    """A real Celery worker, on a machine that was measured before."""
    given = {name: value for name, value in environment.items() if name.startswith("SECATEUR_")}
    settings = Settings(**{name.removeprefix("SECATEUR_").lower(): value for name, value in given.items()})  # type: ignore[arg-type]
    kept = kept_at(settings)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(cpu(threads=settings.threads).model_dump_json())
    command = [sys.executable, "-m", "celery", "-A", app, "worker", "-Q", queue, "-n", f"{name}@tests"]
    command += ["-c", "1", "--loglevel", "INFO", "--without-gossip", "--without-mingle"]
    return process(command, {**environment, "REMAP_SIGTERM": "SIGQUIT"}, log)


def dispatcher(environment: dict[str, str], log: Path) -> AbstractContextManager[psutil.Process]:
    """A real dispatcher and reaper."""
    return process([sys.executable, "-m", "app.dispatch"], environment, log)


def driver(environment: dict[str, str], log: Path, *engine: str) -> AbstractContextManager[psutil.Process]:
    """A worker without Celery: `run_jobs` in a process of its own, with the scripted engine."""
    command = [sys.executable, "-m", "tests.worker.driver", *SCRIPTED, *engine]
    return process(command, environment, log)
