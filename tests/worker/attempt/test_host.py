"""What a worker's machine does to its jobs: secrets, network, disk, and a worker that is sick itself.

Slow: what a kernel allows an engine shows only in an engine's process.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app.settings import Settings
from app.tables.jobs import JobAttempt, JobLog
from app.tables.states import State
from tests.jobs import JobMaker
from tests.worker.harness import SCRIPTED, Watch, attempts, driver, gone, wait_until
from worker.attempt import ClaimBackoff, run_jobs
from worker.attempt.engine_messages import warn_of_network

pytestmark = pytest.mark.slow


def test_the_engine_sees_no_secret_and_its_log_no_path(
    jobs: JobMaker, session: Session, settings: Settings, run: Callable[..., int]
) -> None:
    jobs.make()
    run()
    log = "\n".join(row.message for row in session.query(JobLog).order_by(JobLog.seq))
    assert "SECATEUR_" not in log
    assert "HF_HUB_OFFLINE" in log
    assert "working in <workspace> bold" in log
    assert str(settings.work_dir) not in log
    engine = session.query(JobAttempt).one().engine
    assert engine is not None
    assert engine["isolation"]["tied"]
    assert engine["isolation"]["network"] is not may_unshare()
    assert (os.readlink("/proc/self/ns/net") in log) is not may_unshare()


def may_unshare() -> bool:
    """Whether a process may leave our network here, as root or by a user namespace; one that then ends tries."""
    program = "import ctypes, sys; unshare = ctypes.CDLL(None).unshare; sys.exit(0 not in map(unshare, FLAGS))"
    flags = "(0x40000000, 0x50000000)"  # CLONE_NEWNET, the same with CLONE_NEWUSER
    return subprocess.run([sys.executable, "-c", program.replace("FLAGS", flags)]).returncode == 0


def test_an_engine_that_keeps_its_network_is_reported_once(
    jobs: JobMaker, session: Session, run: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container that denies `unshare`."""
    warn_of_network.cache_clear()
    watches = [Watch(session, jobs.make()) for _ in range(2)]
    assert run("online") == 2
    assert [watch.state for watch in watches] == [State.succeeded] * 2
    assert len([each for each in caplog.messages if "give up its network" in each]) == 1
    warn_of_network.cache_clear()


def test_a_full_disk_has_one_name_whoever_wrote(
    jobs: JobMaker, session: Session, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bring(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full", "/a/path")

    watch = Watch(session, jobs.make())
    monkeypatch.setattr("worker.attempt.attempt.bring", bring)
    run()
    assert watch.state is State.queued
    assert attempts(session, watch.id) == ["disk_full"]
    assert watch.row.lost_attempts == 1, "it costs what other losses cost"
    assert session.query(JobAttempt).one().error == {
        "code": "disk_full",
        "cause": "system",
        "message": "The worker's disk is full.",
        "field": None,
    }


class Learner(ClaimBackoff):
    """Notes what it is told, and waits for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[bool | None] = []

    def heed(self, sound: bool | None, first_seconds: float) -> None:
        self.told.append(sound)


@pytest.mark.parametrize(
    ("how", "outcome", "sound"),
    [
        ("fail", "engine_failed", False),
        ("memory", "out_of_memory", False),
        ("user", "invalid_input", None),
        ("device", "device_unavailable", False),
        ("hang", "engine_stalled", True),
        ("", "succeeded", True),
    ],
)
def test_an_attempt_tells_whether_its_worker_can_work(
    jobs: JobMaker, session: Session, settings: Settings, how: str, outcome: str, sound: bool | None
) -> None:
    """Whatever its end: with a block committed the worker is not what was wrong."""
    learner, job = Learner(), jobs.make()
    # Else the job that a GPU was lost to is there again at once, and so is a worker that does not wait.
    changed = {"max_preemptions": 1} | ({"stall_seconds": 5.0} if how == "hang" else {})
    run_jobs(settings.model_copy(update=changed), "here", [*SCRIPTED, *how.split()], learner)
    assert attempts(session, job) == [outcome]
    assert learner.told == [sound]


def test_a_sick_worker_leaves_the_other_jobs_alone_and_stops_at_once_all_the_same(
    jobs: JobMaker, session: Session, environment: dict[str, str], tmp_path: Path
) -> None:
    first, second = jobs.make(), jobs.make()
    patient = {**environment, "SECATEUR_CAUTION_SECONDS": "60", "SECATEUR_LEASE_SECONDS": "60"}
    with driver(patient, tmp_path / "log", "fail") as worker:
        wait_until(lambda: "next claim in 60 s" in (tmp_path / "log").read_text())
        assert worker.is_running()
        worker.terminate()
        wait_until(lambda: gone([worker]), 5)
    assert (attempts(session, first), attempts(session, second)) == (["engine_failed"], [])
