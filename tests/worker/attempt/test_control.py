"""Pauses, limits, stalls and changed inputs, seen from the worker; the engine is a script, the rest is real.

Slow: a pause is one only between a real claim and a real commit.
"""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.jobs import control
from app.settings import Settings
from app.tables.jobs import Job, JobBlock, JobEvent
from app.tables.models import Model
from app.tables.states import State
from secateur.spec.records.history import Phase
from secateur.spec.records.pipe import Message, Note, Progress
from tests.jobs import JobMaker
from tests.worker.harness import Watch, attempts, driver, engines, gone, wait_until
from worker.attempt.interrupts import Interrupted, Interrupts
from worker.attempt.stall_watchdog import SCALE, StallWatchdog

pytestmark = pytest.mark.slow

Run = Callable[..., int]


@pytest.fixture
def undisturbed(jobs: JobMaker, session: Session, run: Run) -> str:
    """Manifest digest of a job that nothing happens to."""
    watch = Watch(session, jobs.make())
    run()
    return digest(watch)


def digest(watch: Watch) -> str:
    assert watch.row.result is not None, watch.row.failure
    return str(watch.row.result["manifest_digest"])


def order(jobs: JobMaker, call: Callable[..., object], job: str) -> None:
    with transaction() as session:
        call(session, jobs.project, job)


def test_a_pause_waits_for_the_block_and_loses_nothing(
    jobs: JobMaker,
    session: Session,
    environment: dict[str, str],
    run: Run,
    undisturbed: str,
    tmp_path: Path,
) -> None:
    watch = Watch(session, jobs.make())
    with driver(environment, tmp_path / "log", "slow") as worker:
        watch.wait_for_blocks(1)
        family = engines(worker)
        order(jobs, control.pause, watch.id)
        assert watch.state in (State.pausing, State.paused)
        wait_until(lambda: watch.state is State.paused, 20)
        wait_until(lambda: gone([worker, *family]), 10)
    done = watch.blocks()
    assert done >= 2, "the block that was at work when the pause was asked for"
    assert run() == 0, "a paused job is nobody's"
    order(jobs, control.resume, watch.id)
    assert run() == 1
    assert digest(watch) == undisturbed
    assert attempts(session, watch.id) == ["paused", "succeeded"]
    assert session.query(JobBlock).filter_by(job_id=watch.id, attempt=1).count() == done
    row = watch.row
    assert (row.lost_attempts, row.preemptions, row.pause_requested_at) == (0, 0, None)


def test_a_pause_has_a_deadline(
    jobs: JobMaker, session: Session, environment: dict[str, str], run: Run, undisturbed: str, tmp_path: Path
) -> None:
    watch = Watch(session, jobs.make())
    with driver({**environment, "SECATEUR_PAUSE_SECONDS": "1"}, tmp_path / "log", "hang", "deaf") as worker:
        watch.wait_for_blocks(2)
        family = engines(worker)
        order(jobs, control.pause, watch.id)
        wait_until(lambda: watch.state is State.paused, 20)
        wait_until(lambda: gone([worker, *family]), 10)
    assert watch.blocks() == 2, "what was committed stays"
    order(jobs, control.resume, watch.id)
    run()
    assert digest(watch) == undisturbed


def test_a_pause_that_is_withdrawn_in_time_changes_nothing(
    jobs: JobMaker, session: Session, environment: dict[str, str], tmp_path: Path, undisturbed: str
) -> None:
    watch = Watch(session, jobs.make())
    with driver(environment, tmp_path / "log", "slow"):
        watch.wait_for_blocks(1)
        with transaction() as other:
            control.pause(other, jobs.project, watch.id)
            control.resume(other, jobs.project, watch.id)
        assert watch.wait_for_end() is State.succeeded
    assert digest(watch) == undisturbed
    assert attempts(session, watch.id) == ["succeeded"]


def test_a_job_is_stopped_at_its_runtime_within_a_block(jobs: JobMaker, session: Session, run: Run) -> None:
    watch = Watch(session, jobs.make())
    session.execute(update(Job).values(max_runtime_seconds=3, runtime_seconds=1.0))
    session.commit()
    assert run("hang") == 1
    row = watch.row
    assert row.failure is not None
    assert (row.state, row.failure["code"], row.failure["cause"]) == ("failed", "max_runtime", "user")
    assert row.failure["field"] == "/limits/max_runtime"
    assert 3 <= row.runtime_seconds < 10
    assert attempts(session, row.id) == ["max_runtime"]


def test_a_longer_runtime_is_heard_of_in_time(
    jobs: JobMaker, session: Session, environment: dict[str, str], tmp_path: Path
) -> None:
    watch = Watch(session, jobs.make())
    session.execute(update(Job).values(max_runtime_seconds=3))
    session.commit()
    with driver(environment, tmp_path / "log", "slow"):
        wait_until(lambda: watch.state is State.running)
        session.execute(update(Job).values(max_runtime_seconds=300))
        session.commit()
        assert watch.wait_for_end() is State.succeeded
    assert watch.row.runtime_seconds > 3


def test_a_silent_engine_is_killed_and_counts_as_a_loss(
    jobs: JobMaker, session: Session, run: Run, undisturbed: str
) -> None:
    watch = Watch(session, jobs.make())
    assert run("hang", "deaf", stall_seconds=5.0) == 1
    row = watch.row
    assert (row.state, attempts(session, row.id)) == ("queued", ["engine_stalled"])
    assert row.lost_attempts == 0, "it had finished blocks before"
    session.execute(update(Job).values(available_at=func.now()))
    session.commit()
    run()
    assert digest(watch) == undisturbed


def test_patience_grows_with_the_engines_own_pace() -> None:
    now = 0.0
    watchdog = StallWatchdog(10, lambda: now)

    def hear(after: float, message: Message, handling: float = 0) -> None:
        nonlocal now
        now += after
        watchdog.hear(message)
        now += handling
        watchdog.listen(message)

    hear(4, Progress(phase=Phase.pruning, fraction=0.0), handling=1000)
    assert watchdog.silence() == 0, "what we take to store a report is not the engine's silence"
    now += 4 * SCALE
    assert not watchdog.is_over()
    hear(0, Note(level="info", message="waiting"))
    now += 1
    assert watchdog.is_over(), "a note is no progress"


def test_an_attempt_may_rest_only_where_nothing_is_lost() -> None:
    interrupts = Interrupts()
    interrupts.in_block = True
    interrupts.order_pause(True, seconds=math.inf)
    interrupts.check()
    interrupts.in_block = False
    with pytest.raises(Interrupted):
        interrupts.check()
    interrupts.order_pause(False, seconds=0)
    interrupts.check()
    interrupts.in_block = True
    interrupts.order_pause(True, seconds=0)
    with pytest.raises(Interrupted):
        interrupts.check()


@pytest.mark.parametrize("what", ["spec", "model"])
def test_changed_inputs_are_not_resumed(
    jobs: JobMaker, session: Session, settings: Settings, run: Run, what: str
) -> None:
    watch = Watch(session, jobs.make())
    assert run("hang", "deaf", stall_seconds=5.0) == 1
    done = watch.blocks()
    if what == "model":
        session.execute(update(Model).values(digest="f" * 64))
    else:
        spec = watch.row.spec
        session.execute(update(Job).values(spec={**spec, "sparsity": {**spec["sparsity"], "target": 0.6}}))
    session.execute(update(Job).values(available_at=func.now()))
    session.commit()
    assert run() == 1
    row = watch.row
    assert row.failure is not None
    assert (row.state, row.failure["code"], row.failure["cause"]) == ("failed", "inputs_changed", "system")
    assert what in row.failure["message"]
    assert row.failure["field"] == ("/model" if what == "model" else "")
    assert watch.blocks() == done


def test_a_changed_input_does_not_matter_before_anything_is_computed(
    jobs: JobMaker, session: Session, run: Run
) -> None:
    watch = Watch(session, jobs.make())
    run("fail")
    session.execute(update(Model).values(digest="f" * 64))
    session.execute(update(Job).values(available_at=func.now()))
    session.commit()
    run()
    assert watch.state is State.succeeded
    assert session.query(JobEvent).filter_by(type="restarted").count() == 0
