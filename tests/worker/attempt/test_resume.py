"""The real engine, disturbed: what another worker makes of its checkpoint is the same to the bit.

Slow: a script has no bits that could differ.
"""

from pathlib import Path

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.dispatch.housekeeping import reap_jobs
from app.jobs import control, retries
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import Job, JobBlock, JobEvent, JobMatrix
from app.tables.states import State
from tests import tiny
from tests.jobs import JobMaker
from tests.worker.attempt.test_control import digest
from tests.worker.harness import Watch, attempts, make_tiny_jobs, process, wait_until
from worker.attempt import run_jobs
from worker.attempt.engine_process import COMMAND

BLOCKS = 6
SLOW = {"name": "copal", "weight_update": "admm", "admm": {"iterations": 300}, "refine": "none"}
"""So many steps that a job can be disturbed in its middle."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """With a lease that a busy machine does not lose by itself."""
    return {**environment, "SECATEUR_LEASE_SECONDS": "8"}


@pytest.fixture
def jobs(session: Session, store: ObjectStore, tmp_path: Path) -> JobMaker:
    model = tiny.make_tiny_llama(tmp_path / "tiny", blocks=BLOCKS, hidden=96)
    return make_tiny_jobs(session, store, model)


def test_another_worker_goes_on_to_the_same_bytes(
    jobs: JobMaker, session: Session, settings: Settings, environment: dict[str, str], tmp_path: Path
) -> None:
    """After a killed worker, and after a retry of what was cancelled."""
    reference = Watch(session, jobs.make(method=SLOW))
    assert run_jobs(settings, "first") == 1
    for end in ("killed", "retried"):
        watch = Watch(session, jobs.make(method=SLOW))
        driver = [COMMAND[0], "-m", "tests.worker.driver", *COMMAND]
        with process(driver, environment, tmp_path / "log") as worker:
            watch.wait_for_blocks(BLOCKS // 2)
            if end == "killed":
                worker.kill()
            else:
                with transaction() as other:
                    control.cancel(other, jobs.project, watch.id)
                assert watch.wait_for_end() is State.cancelled
        before = watch.blocks()
        assert 0 < before < 2 * BLOCKS, "it was disturbed in the middle"
        if end == "killed":
            wait_until(lambda: reap_jobs(settings) > 0)
            session.execute(update(Job).values(available_at=func.now()))
            session.commit()
            followed = watch
        else:
            with transaction() as other:
                (job, _), _ = retries.retry(other, jobs.project, watch.id)
            followed = Watch(session, job.id)
        another = {"work_dir": tmp_path / f"another host, {end}", "threads": settings.threads + 1}
        assert run_jobs(settings.model_copy(update=another), "second") == 1
        assert digest(followed) == digest(reference)
        assert followed.blocks() == 2 * BLOCKS
        again = session.query(JobBlock).filter_by(job_id=followed.id, attempt=followed.row.attempts).count()
        assert again == 2 * BLOCKS - before, "no block was solved twice"
        records = [session.query(JobMatrix).filter_by(job_id=each.id).count() for each in (followed, reference)]
        assert records[0] == records[1] > 0


def test_a_retry_from_another_format_starts_anew_and_says_so(
    jobs: JobMaker, session: Session, settings: Settings, environment: dict[str, str], tmp_path: Path
) -> None:
    reference = Watch(session, jobs.make(method=SLOW))
    assert run_jobs(settings, "first") == 1
    watch = Watch(session, jobs.make(method=SLOW))
    driver = [COMMAND[0], "-m", "tests.worker.driver", *COMMAND]
    with process(driver, environment, tmp_path / "log"):
        watch.wait_for_blocks(2)
        with transaction() as other:
            control.cancel(other, jobs.project, watch.id)
        assert watch.wait_for_end() is State.cancelled
    session.execute(update(JobBlock).where(JobBlock.job_id == watch.id).values(engine_format=0))
    session.commit()
    with transaction() as other:
        (job, _), _ = retries.retry(other, jobs.project, watch.id)
    assert run_jobs(settings, "second") == 1
    followed = Watch(session, job.id)
    assert digest(followed) == digest(reference)
    assert attempts(session, job.id) == ["succeeded"]
    (event,) = session.query(JobEvent).filter_by(job_id=job.id, type="restarted")
    assert "engine format 0" in event.data["reason"]
    assert session.query(JobBlock).filter_by(job_id=job.id, attempt=1).count() == 2 * BLOCKS
