"""Jobs that continue other jobs, through the real supervisor; the engine is a script with the real protocol.

Slow: what a job inherits goes through claim, staging and publication.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.garbage.repository import drop_checkpoints
from app.garbage.sweep import Sweep
from app.jobs import control, retries
from app.jobs.retries import GateMissed
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import JobAttempt, JobBlock, JobEvaluation, JobEvent
from app.tables.states import State
from tests.jobs import JobMaker
from tests.worker.attempt.test_attempt import finish_in_another_worker
from tests.worker.harness import SCRIPTED, Watch, driver, make_tiny_jobs
from worker.attempt import run_jobs
from worker.attempt.card import PATH as CARD

pytestmark = pytest.mark.slow

Run = Callable[..., int]


@pytest.fixture
def jobs(session: Session, store: ObjectStore) -> JobMaker:
    """Three texts; jobs are made over as many as a test says."""
    return make_tiny_jobs(session, store, None, domains=3)


@pytest.fixture
def run(settings: Settings) -> Run:
    return lambda *how: run_jobs(settings, "here", [*SCRIPTED, *how])


def first(jobs: JobMaker, session: Session, run: Run, **spec: object) -> Watch:
    """A finished job over the first two texts."""
    texts = jobs.datasets
    jobs.datasets = texts[:2]
    watch = Watch(session, jobs.make(**spec))
    jobs.datasets = texts
    assert run() == 1
    return watch


def contents(watch: Watch) -> dict[str, str]:
    """Path → sha256 of a job's artifact."""
    manifest = watch.row.manifest
    assert manifest is not None
    return {file["path"]: file["sha256"] for file in manifest["files"]}


def test_two_domains_and_one_more_are_three_domains(jobs: JobMaker, session: Session, run: Run) -> None:
    whole = Watch(session, jobs.make())
    run()
    parent = first(jobs, session, run)
    child = Watch(session, jobs.go_on(parent.id, jobs.datasets[2]))
    assert run() == 1
    assert child.state is State.succeeded
    once, later = contents(whole), contents(child)
    assert once.pop(CARD) != later.pop(CARD), "a card says what was continued"
    assert later == once
    rows = session.query(JobEvaluation).filter_by(job_id=child.id).order_by(JobEvaluation.row)
    assert [(row.row, row.perplexity) for row in rows] == [(0, 10.0), (1, 11.0), (2, 12.0), (3, 13.0)]
    assert session.query(JobBlock).filter_by(job_id=child.id).count() == 4, "only its own stage was computed"


def test_a_job_is_continued_twice_and_each_branch_is_its_own(jobs: JobMaker, session: Session, run: Run) -> None:
    parent = first(jobs, session, run)
    left, right = (Watch(session, jobs.go_on(parent.id, jobs.datasets[number])) for number in (2, 1))
    assert run() == 2
    further = Watch(session, jobs.go_on(left.id, jobs.datasets[1]))
    assert run() == 1
    assert [watch.state for watch in (left, right, further)] == [State.succeeded] * 3
    assert len({tuple(contents(watch).items()) for watch in (parent, left, right, further)}) == 4
    assert [watch.row.first_stage for watch in (parent, left, further)] == [0, 2, 3]


def test_a_killed_continuation_goes_on_to_the_same_bytes(
    jobs: JobMaker,
    session: Session,
    settings: Settings,
    environment: dict[str, str],
    run: Run,
    tmp_path: Path,
) -> None:
    parent = first(jobs, session, run)
    reference = Watch(session, jobs.go_on(parent.id, jobs.datasets[2]))
    run()
    watch = Watch(session, jobs.go_on(parent.id, jobs.datasets[2]))
    with driver(environment, tmp_path / "log", "slow") as worker:
        watch.wait_for_blocks(2)
        worker.kill()
    finish_in_another_worker(session, watch, settings, run)
    assert watch.state is State.succeeded
    assert contents(watch) == contents(reference)
    again = session.query(JobBlock).filter_by(job_id=watch.id, attempt=2).count()
    assert again < 4, "what was committed is not computed again"


def test_a_missing_file_of_the_parent_is_the_stores_failure(
    jobs: JobMaker, session: Session, store: ObjectStore, settings: Settings, run: Run
) -> None:
    parent = first(jobs, session, run)
    manifest = parent.row.manifest
    assert manifest is not None
    store.delete([file["key"] for file in manifest["files"] if file["path"].startswith("state/")])
    child = Watch(session, jobs.go_on(parent.id, jobs.datasets[2]))
    run()
    assert child.state is State.queued
    assert session.query(JobAttempt).filter_by(job_id=child.id).one().outcome == "store_failed"


def test_the_sweep_leaves_everything_that_can_be_continued(
    jobs: JobMaker, session: Session, store: ObjectStore, run: Run
) -> None:
    parent = first(jobs, session, run, gate={"max_bwt": 0.5})
    assert parent.state is State.failed, "also one that missed its gate"
    child = Watch(session, jobs.go_on(parent.id, jobs.datasets[2], gate=None))
    while True:
        with transaction() as other:
            if not drop_checkpoints(other, 0):
                break
    assert Sweep(store, lambda: None, timedelta(0)).everything() > 0, "the checkpoint of the first stage"
    manifest = parent.row.manifest
    assert manifest is not None
    assert all(store.head(file["key"]) == file["bytes"] for file in manifest["files"])
    assert run() == 1
    assert child.state is State.succeeded


def test_a_retry_is_continued_after_what_it_retried_was_deleted(
    jobs: JobMaker, session: Session, store: ObjectStore, run: Run
) -> None:
    """Its objects lie below the name of the first job of the chain."""
    *jobs.datasets, another = jobs.datasets
    broken = Watch(session, jobs.make())
    run("user")
    assert broken.state is State.failed
    with transaction() as other:
        (retried, _), _ = retries.retry(other, jobs.project, broken.id)
    assert run() == 1
    with transaction() as other:
        control.delete(other, jobs.project, broken.id)
    Sweep(store, lambda: None, timedelta(0)).everything()
    child = Watch(session, jobs.go_on(retried.id, another))
    assert run() == 1
    assert (child.state, child.row.lineage) == (State.succeeded, retried.id)
    manifest = Watch(session, retried.id).row.manifest
    assert manifest is not None
    assert {file["key"].split("/")[1] for file in manifest["files"]} == {broken.id}


def test_a_missed_gate_fails_the_job_with_the_numbers_and_keeps_its_files(
    jobs: JobMaker, session: Session, store: ObjectStore, run: Run
) -> None:
    gate = {"max_bwt": 0.5, "max_log_bwt": 1.0, "max_mean_perplexity": 11.5}
    watch = first(jobs, session, run, gate=gate)
    row = watch.row
    assert row.state == State.failed
    assert row.failure is not None
    assert (row.failure["code"], row.failure["cause"], row.failure["field"]) == (
        *("gate_failed", "user", "/gate/max_bwt"),
    )
    assert "the BWT is 1, above max_bwt 0.5" in row.failure["message"]
    assert "the mean perplexity is 12, above max_mean_perplexity 11.5" in row.failure["message"]
    assert "log" not in row.failure["message"], "only what was missed is named"
    assert row.result is not None
    assert row.manifest is not None
    assert row.result["manifest_digest"] == row.manifest["digest"]
    assert all(store.head(file["key"]) == file["bytes"] for file in row.manifest["files"])
    attempt = session.query(JobAttempt).filter_by(job_id=row.id).one()
    assert (attempt.outcome, attempt.error) == ("gate_failed", row.failure)
    types = [event.type for event in session.query(JobEvent).filter_by(job_id=row.id).order_by(JobEvent.seq)]
    assert types[-2:] == ["published", "transition"]
    with transaction() as other, pytest.raises(GateMissed):
        retries.retry(other, jobs.project, row.id)


def test_a_gate_that_is_kept_changes_nothing(jobs: JobMaker, session: Session, run: Run) -> None:
    watch = first(jobs, session, run, gate={"max_bwt": 1.0, "max_log_bwt": 0.1, "max_mean_perplexity": 12.0})
    assert (watch.state, watch.row.failure) == (State.succeeded, None)


def test_a_gate_is_held_against_the_whole_lineage(jobs: JobMaker, session: Session, run: Run) -> None:
    """The script adds one to the perplexity with each stage of the lineage: 13 − 11 for its only column."""
    parent = first(jobs, session, run)
    child = Watch(session, jobs.go_on(parent.id, jobs.datasets[2], gate={"max_bwt": 1.5}))
    run()
    assert child.state is State.failed
    assert child.row.failure is not None
    assert "the BWT is 2, above max_bwt 1.5" in child.row.failure["message"]


def test_a_first_stage_forgets_nothing(jobs: JobMaker, session: Session, run: Run) -> None:
    jobs.datasets = jobs.datasets[:1]
    watch = Watch(session, jobs.make(gate={"max_bwt": 0.0}))
    run()
    assert watch.state is State.succeeded


def test_warnings_are_part_of_the_result_without_the_workers_paths(
    jobs: JobMaker, session: Session, settings: Settings, run: Run
) -> None:
    watch = first(jobs, session, run)
    assert watch.row.result is not None
    assert watch.row.result["warnings"] == [
        {"code": "masks_unchanged", "message": "nothing moved in <workspace>", "data": {"overlap": 0.9995}}
    ]
