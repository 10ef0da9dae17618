"""A worker that is started when there is a job."""

import os
import subprocess
import sys

import pytest
from sqlalchemy.orm import Session

from app.settings import Settings
from app.tables.jobs import Job, JobAttempt
from app.tables.states import State
from app.tables.workers import Worker, WorkerDevice
from tests.jobs import make_jobs
from worker import once
from worker.attempt import DeviceGate, disk_room
from worker.device.finding import Finding, Health


class Sick(DeviceGate):
    """Of a GPU that does not work."""

    def look(self) -> Finding:
        return Finding(Health.sick, "it fell off the bus")


@pytest.mark.parametrize("lacks", ["device", "room"])
def test_it_ends_badly_on_a_machine_that_does_not_become_fit(
    session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    job = make_jobs(session).make()
    monkeypatch.setattr(once, "PATIENCE_SECONDS", 0.05)
    if lacks == "room":
        monkeypatch.setattr(disk_room, "has_room", lambda _: False)
    with pytest.raises(SystemExit) as ended:
        once.run(settings, "w", Sick(settings) if lacks == "device" else DeviceGate(settings))
    assert ended.value.code not in {0, None}
    assert {"device": "fell off", "room": "disk_reserve_bytes"}[lacks] in str(ended.value.code)
    assert session.get_one(Job, job, populate_existing=True).attempts == 0


@pytest.mark.slow
def test_it_takes_what_waits_and_ends_when_no_job_is_left(session: Session, environment: dict[str, str]) -> None:
    """The model has no files, so its job ends at once; the broker is nowhere, which is nobody's business.

    Slow: only the process itself shows that it ends by itself, and what it leaves.
    """
    maker = make_jobs(session)
    jobs = [maker.make(), maker.make()]
    given = (
        os.environ | environment | {"SECATEUR_BROKER_URL": "redis://127.0.0.1:9/0", "SECATEUR_MAX_ATTEMPTS": "1"}
    )
    ended = subprocess.run(
        [sys.executable, "-m", "worker.once"], env=given, capture_output=True, text=True, timeout=200
    )
    assert ended.returncode == 0, ended.stderr
    assert "2 attempts were made" in ended.stderr
    session.expire_all()
    assert [session.get_one(Job, job).state for job in jobs] == [State.failed] * 2
    (worker,) = {attempt.worker for attempt in session.query(JobAttempt)}
    assert worker.startswith("once@")
    assert not session.query(Worker).count()
    assert not session.query(WorkerDevice).count()
