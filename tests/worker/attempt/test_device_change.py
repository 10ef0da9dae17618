"""A job that goes on on another device: it is said, or it waits for one like the first.

Slow: an engine is a process.
"""

from collections.abc import Callable

import pytest
from sqlalchemy import func, text, update
from sqlalchemy.orm import Session

from app.delivery.claim import claim
from app.delivery.device_change import COMPUTED, OWN
from app.settings import Settings, get_settings
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobAttempt, JobEvaluation, JobEvent
from app.tables.states import State
from app.tables.workers import WorkerDevice
from tests.jobs import JobMaker
from tests.records import fingerprint
from tests.worker.harness import SCRIPTED, Watch, attempts
from worker.attempt import run_jobs

pytestmark = pytest.mark.slow


@pytest.fixture
def work(session: Session, settings: Settings) -> Callable[..., int]:
    """worker: its name. how: to its engine."""

    def run(worker: str, *how: str) -> int:
        session.execute(update(Job).values(available_at=func.now()))
        session.commit()
        return run_jobs(settings, worker, [*SCRIPTED, *how])

    return run


@pytest.fixture
def same_device(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_settings(), "resume_on", "same_device")


def notes(session: Session, job: str) -> list[dict[str, object]]:
    rows = session.query(JobEvent).filter_by(job_id=job, type=EventType.note).order_by(JobEvent.seq)
    return [row.data for row in rows if row.data.get("code") == "device_changed"]


def test_a_resume_on_another_device_is_said_once(
    jobs: JobMaker, session: Session, work: Callable[..., int]
) -> None:
    watch = Watch(session, jobs.make())
    work("one", "later", "H100")
    assert watch.blocks() == 2
    assert notes(session, watch.id) == []
    work("one", "A100")
    assert watch.state is State.succeeded
    (note,) = notes(session, watch.id)
    assert note["level"] == "warning"
    assert (note["before"], note["now"]) == ({"name": "H100"}, {"name": "A100"})
    assert note["message"] == "The job goes on on another device (by name): its bytes may not be those of one run."
    engines = [row.engine for row in session.query(JobAttempt).order_by(JobAttempt.number)]
    assert [(each or {})["fingerprint"]["name"] for each in engines] == ["H100", "A100"]
    manifest = watch.row.manifest
    assert manifest is not None
    assert manifest["provenance"]["engine"]["fingerprint"]["name"] == "A100"
    assert "uuid" not in manifest["provenance"]["engine"]["fingerprint"]


def test_another_device_before_anything_is_computed_is_no_change(
    jobs: JobMaker, session: Session, work: Callable[..., int]
) -> None:
    watch = Watch(session, jobs.make())
    work("one", "fail", "H100")
    work("two", "A100")
    assert (watch.state, notes(session, watch.id)) == (State.succeeded, [])


@pytest.mark.usefixtures("same_device")
def test_where_it_must_be_the_same_the_job_waits_for_one_and_loses_nothing(
    jobs: JobMaker, session: Session, work: Callable[..., int]
) -> None:
    watch = Watch(session, jobs.make())
    work("one", "later", "H100")
    # Nobody knows this worker's device yet: its engine says it, once.
    assert work("two", "A100") == 1
    assert (watch.state, watch.blocks()) == (State.queued, 2)
    assert attempts(session, watch.id) == ["engine_failed", "other_device"]
    assert watch.row.lost_attempts == 0
    (note,) = notes(session, watch.id)
    assert note["now"] == {"name": "A100"}
    assert work("two", "A100") == 0, "it leaves the job to others from then on"
    assert work("three", "H100") == 1
    assert watch.state is State.succeeded
    assert len(notes(session, watch.id)) == 1


@pytest.mark.usefixtures("same_device")
def test_a_job_with_nothing_computed_goes_anywhere(
    jobs: JobMaker, session: Session, work: Callable[..., int]
) -> None:
    watch = Watch(session, jobs.make())
    work("one", "fail", "H100")
    session.add(WorkerDevice(name="two", fingerprint="0" * 64))
    session.execute(update(Job).values(available_at=func.now()))
    session.commit()
    taken = claim(session, "two", 60)
    assert taken is not None
    assert taken.lease.job_id == watch.id


def test_what_a_job_has_of_the_one_it_continues_was_not_computed_by_it(
    jobs: JobMaker, session: Session, work: Callable[..., int]
) -> None:
    watch = Watch(session, jobs.make())
    work("one", "later", "H100")
    parent, child = watch.id, jobs.make()
    session.execute(update(Job).where(Job.id == child).values(continues=parent))
    entry = {"perplexity": 2.0, "loss": 0.7, "windows": 1, "tokens": 9, "window_losses": [0.7], "protocol": {}}
    session.query(JobEvaluation).delete()
    for job in (parent, child):
        session.add(JobEvaluation(job_id=job, row=0, domain="a", **entry))
    session.commit()
    computed = text(f"SELECT {COMPUTED} FROM jobs j WHERE j.id = :id")  # noqa: S608 - constants only
    assert [session.scalar(computed, {"id": job}) for job in (parent, child)] == [True, False]
    session.add(JobEvaluation(job_id=child, row=1, domain="a", **entry))
    session.commit()
    assert session.scalar(computed, {"id": child})


def test_alike_gpus_are_one_kind_of_device() -> None:
    one, other = fingerprint("H100"), fingerprint("H100", uuid="another", threads=9)
    assert one != other
    assert one.model_dump(exclude=OWN) == other.model_dump(exclude=OWN)
