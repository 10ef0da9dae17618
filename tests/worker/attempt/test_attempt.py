"""One attempt, whatever happens to it. The engine is a script with the real protocol; everything else is real.

Slow: leases, uploads and an engine's death are real only with processes and servers.
"""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery.endings import budgets
from app.delivery.reaper import reap_one
from app.dispatch.housekeeping import reap_jobs
from app.garbage.sweep import Sweep
from app.history.evaluation import evaluation_of
from app.jobs import control, retries
from app.local.servers import SeaweedServer
from app.settings import Settings
from app.storage import ObjectStore, open_store
from app.tables.jobs import (
    Job,
    JobAttempt,
    JobBlock,
    JobEvaluation,
    JobEvent,
    JobLease,
    JobLog,
    JobMatrix,
    JobStage,
)
from app.tables.sensitivity import JobDomainSensitivity, JobSensitivity
from app.tables.states import State
from tests.app.storage.test_store import s3_settings
from tests.jobs import JobMaker
from tests.worker.harness import SCRIPTED, Watch, attempts, driver, engines, gone, wait_until
from worker.attempt import card, run_jobs

pytestmark = pytest.mark.slow

ALL_BLOCKS = 8
"""Two stages of four blocks."""


@pytest.fixture
def undisturbed(jobs: JobMaker, session: Session, run: Callable[..., int]) -> str:
    """Manifest digest of a job that nothing happens to."""
    watch = Watch(session, jobs.make())
    run()
    assert watch.row.result is not None
    return str(watch.row.result["manifest_digest"])


def finish_in_another_worker(session: Session, watch: Watch, settings: Settings, run: Callable[..., int]) -> None:
    """What the reaper and the next worker do."""
    wait_until(lambda: reap_jobs(settings) > 0 or watch.state is State.queued)
    session.execute(update(Job).values(available_at=func.now()))
    session.commit()
    run()


def test_a_job_runs_to_its_end(
    jobs: JobMaker, session: Session, store: ObjectStore, settings: Settings, run: Callable[..., int]
) -> None:
    watch = Watch(session, jobs.make())
    assert run() == 1
    row = watch.row
    assert row.state == State.succeeded
    assert row.manifest is not None
    assert [file["path"] for file in row.manifest["files"]] == [
        "model/README.md",
        *(f"model/model-{block + 1:05d}-of-00005.safetensors" for block in range(5)),
        "report.json",
        *(f"state/block-{block:04d}.safetensors" for block in range(4)),
    ]
    assert all(store.head(file["key"]) == file["bytes"] for file in row.manifest["files"])
    assert [stage.state for stage in session.query(JobStage)] == ["done", "done"]
    assert session.query(JobMatrix).count() == ALL_BLOCKS
    # The script says nothing of a basis, like the engines before there were two.
    assert session.query(JobSensitivity).count() == ALL_BLOCKS
    assert session.query(JobDomainSensitivity).count() == 0
    assert session.query(JobEvaluation).count() == 3
    assert attempts(session, row.id) == ["succeeded"]
    assert session.query(JobLease).count() == 0
    assert list((settings.work_dir / "scratch").iterdir()) == []


def test_a_card_that_cannot_be_written_costs_nobody_a_job(
    jobs: JobMaker, session: Session, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card, "write_card", lambda *_: {}["odd"])
    watch = Watch(session, jobs.make())
    assert run() == 1
    assert watch.state is State.succeeded
    assert card.PATH not in {file["path"] for file in (watch.row.manifest or {})["files"]}
    warnings = session.query(JobLog).filter_by(job_id=watch.id, level="warning")
    assert ["model card" in line.message for line in warnings] == [True]


def scores_of(manifest: dict[str, Any] | None) -> dict[str, str]:
    """Path and key of every stage's sensitivities."""
    assert manifest is not None
    return {file["path"]: file["key"] for file in manifest["files"] if file["path"].startswith("sensitivity/")}


def test_what_is_for_keeping_is_in_the_artifact_from_every_stage(
    jobs: JobMaker, session: Session, store: ObjectStore, run: Callable[..., int]
) -> None:
    watch = Watch(session, jobs.make())
    assert run("scores") == 1
    found = scores_of(watch.row.manifest)
    assert set(found) == {f"sensitivity/stage-{stage:02d}/{block}" for stage in (0, 1) for block in range(4)}
    assert all(store.head(key) == 32 for key in found.values())


@pytest.mark.parametrize("how", ["killed", "retried"])
def test_what_is_for_keeping_outlives_its_stage_the_sweep_and_the_attempt(
    jobs: JobMaker,
    session: Session,
    settings: Settings,
    environment: dict[str, str],
    store: ObjectStore,
    run: Callable[..., int],
    tmp_path: Path,
    how: str,
) -> None:
    reference = Watch(session, jobs.make())
    run("scores")
    watch = Watch(session, jobs.make())
    with driver(environment, tmp_path / "log", "slow", "scores") as worker:
        watch.wait_for_blocks(5)
        if how == "killed":
            worker.kill()
        else:
            with transaction() as other:
                control.cancel(other, jobs.project, watch.id)
            watch.wait_for_end()
    Sweep(store, lambda: None, timedelta(0)).everything()
    if how == "killed":
        finish_in_another_worker(session, watch, settings, lambda: run("scores"))
    else:
        with transaction() as other:
            (job, _), _ = retries.retry(other, jobs.project, watch.id)
        watch = Watch(session, job.id)
        run("scores")
    row = watch.row
    assert row.result is not None
    assert reference.row.result is not None
    assert row.result["manifest_digest"] == reference.row.result["manifest_digest"]
    Sweep(store, lambda: None, timedelta(0)).everything()
    assert all(store.head(key) == 32 for key in scores_of(row.manifest).values())
    assert len({key.split("/")[2] for key in scores_of(row.manifest).values()}) == 2, "both attempts made some"


def test_one_call_runs_all_that_is_queued(jobs: JobMaker, session: Session, run: Callable[..., int]) -> None:
    watches = [Watch(session, jobs.make()) for _ in range(3)]
    assert run() == 3
    assert [watch.state for watch in watches] == [State.succeeded] * 3
    assert run() == 0, "a second notification finds nothing"


@pytest.mark.parametrize(
    ("how", "code", "cause", "state"),
    [
        ("user", "too_few_tokens", "user", State.failed),
        ("fail", "engine_failed", "system", State.queued),
        ("memory", "out_of_memory", "system", State.queued),
        ("disk", "disk_full", "system", State.queued),
        ("outside", "engine_failed", "system", State.queued),
        ("nonsense", "engine_failed", "system", State.queued),
        ("beyond", "engine_failed", "system", State.queued),
        ("after", "engine_failed", "system", State.queued),
        ("plan", "engine_failed", "system", State.queued),
    ],
)
def test_a_failing_engine_names_the_cause(
    jobs: JobMaker, session: Session, run: Callable[..., int], how: str, code: str, cause: str, state: State
) -> None:
    watch = Watch(session, jobs.make())
    run(how)
    assert watch.state is state
    error = session.query(JobAttempt).one().error
    assert error is not None
    assert (error["code"], error["cause"]) == (code, cause)
    assert "/" not in error["message"].replace("<workspace>", "")
    assert "secret" not in error["message"]


def test_the_same_error_twice_is_not_tried_a_third_time(
    jobs: JobMaker, session: Session, run: Callable[..., int]
) -> None:
    watch = Watch(session, jobs.make())
    for how in ("same", "fail", "same", "same"):
        assert watch.state is State.queued
        again(session)
        run(how, max_attempts=9)
    assert watch.state is State.failed
    assert attempts(session, watch.id) == ["engine_failed"] * 4
    failure = watch.row.failure
    assert failure is not None
    assert (failure["code"], failure["cause"]) == ("engine_failed", "system")
    said = "The engine stopped with an error of its own. It did so twice at the same place, and was not tried"
    said += " a third time."
    assert failure["message"] == said


def test_the_same_error_behind_another_block_is_tried_again(
    jobs: JobMaker, session: Session, run: Callable[..., int]
) -> None:
    watch = Watch(session, jobs.make())
    run("same")
    again(session)
    run("later")
    assert watch.state is State.queued
    assert watch.blocks() == 2


def again(session: Session) -> None:
    """What is queued need not wait."""
    session.execute(update(Job).values(available_at=func.now()))
    session.commit()


def test_a_failure_of_the_user_names_the_field(jobs: JobMaker, session: Session, run: Callable[..., int]) -> None:
    watch = Watch(session, jobs.make())
    run("user")
    assert watch.row.failure == {
        "code": "too_few_tokens",
        "cause": "user",
        "message": "too short",
        "field": "/domains/0",
    }


def test_a_missing_object_is_the_stores_failure(
    jobs: JobMaker, session: Session, store: ObjectStore, run: Callable[..., int]
) -> None:
    watch = Watch(session, jobs.make())
    store.delete([key for key, _ in store.list("datasets")])
    run()
    assert watch.state is State.queued
    assert attempts(session, watch.id) == ["store_failed"]


def test_killed_worker(
    jobs: JobMaker,
    session: Session,
    settings: Settings,
    environment: dict[str, str],
    run: Callable[..., int],
    undisturbed: str,
    tmp_path: Path,
) -> None:
    """kill -9 in the middle: nothing is orphaned, nothing computed twice, the result is the same to the bit."""
    watch = Watch(session, jobs.make())
    with driver(environment, tmp_path / "log", "slow", "spawn") as worker:
        watch.wait_for_blocks(6)
        (engine,) = engines(worker)
        assert os.getpgid(engine.pid) == engine.pid
        worker.kill()
        wait_until(lambda: gone([engine]))
    before = {(row.stage, row.block) for row in session.query(JobBlock).filter_by(job_id=watch.id)}
    finish_in_another_worker(session, watch, settings, run)
    row = watch.row
    assert row.result is not None
    assert row.result["manifest_digest"] == undisturbed
    again = session.query(JobBlock).filter_by(job_id=watch.id, attempt=2)
    assert not before & {(row.stage, row.block) for row in again}
    assert attempts(session, row.id) == ["worker_lost", "succeeded"]
    assert row.lost_attempts == 0, "the first attempt had made progress"
    assert not any((settings.work_dir / "scratch").iterdir())


def skipped_notes(session: Session, job: str) -> list[dict[str, Any]]:
    rows = session.query(JobEvent).filter_by(job_id=job, type="note").order_by(JobEvent.seq)
    return [row.data for row in rows if "skipped" in row.data]


def test_what_stays_as_it_is_is_said_once_with_its_reasons(
    jobs: JobMaker, session: Session, settings: Settings, run: Callable[..., int]
) -> None:
    watch = Watch(session, jobs.make())
    run("fail")
    assert watch.state is State.queued
    finish_in_another_worker(session, watch, settings, run)
    assert attempts(session, watch.id) == ["engine_failed", "succeeded"]
    assert skipped_notes(session, watch.id) == [
        {
            "level": "info",
            "message": "3 tensors stay as they are",
            "skipped": [
                {"reason": "outside the decoder blocks (Embedding)", "tensors": 1, "weights": 100},
                {"reason": "not a matrix (Norm)", "tensors": 2, "weights": 4},
            ],
        }
    ]


def test_killed_engine(
    jobs: JobMaker,
    session: Session,
    settings: Settings,
    environment: dict[str, str],
    run: Callable[..., int],
    undisturbed: str,
    tmp_path: Path,
) -> None:
    watch = Watch(session, jobs.make())
    with driver(environment, tmp_path / "log", "slow") as worker:
        watch.wait_for_blocks(2)
        for engine in engines(worker):
            engine.kill()
        wait_until(lambda: watch.state is State.queued)
    finish_in_another_worker(session, watch, settings, run)
    assert watch.row.result is not None
    assert watch.row.result["manifest_digest"] == undisturbed
    assert attempts(session, watch.id) == ["engine_killed", "succeeded"]


def test_an_engine_that_holds_too_much_runs_out_of_memory(
    jobs: JobMaker, session: Session, run: Callable[..., int]
) -> None:
    watch = Watch(session, jobs.make())
    run("greedy", max_memory_attempts=1, engine_memory_bytes=2**28)
    assert watch.state is State.failed
    assert attempts(session, watch.id) == ["out_of_memory"]
    failure = watch.row.failure
    assert failure is not None
    assert "0.3 GB of memory" in failure["message"]


def test_a_task_that_kills_the_engine_costs_one_attempt_and_not_the_model(
    jobs: JobMaker, session: Session, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.attempt.runner.has_harness", lambda: True)
    watch = Watch(session, jobs.make(tasks=[{"name": "deadly"}, {"name": "sound"}]))
    run("deadly", max_attempts=2)
    session.execute(update(Job).values(available_at=func.now(), max_runtime_seconds=3600))
    session.commit()
    run("deadly", max_attempts=2)
    assert watch.state is State.succeeded
    assert attempts(session, watch.id) == ["engine_killed", "succeeded"]
    found = evaluation_of(session, watch.row).tasks
    assert [(each.task, each.model) for each in found] == [(n, m) for n in (0, 1) for m in ("dense", "pruned")]
    assert [each.error for each in found] == ["The engine was killed by a signal.", None, None, None]
    lines = session.query(JobLog.message).filter(JobLog.message.startswith("time is")).order_by(JobLog.seq)
    assert [line for (line,) in lines] == ["time is without end", "time is limited"]


@pytest.mark.parametrize("how", [["slow"], ["slow", "deaf", "spawn"]])
def test_cancel_while_running(
    jobs: JobMaker, session: Session, environment: dict[str, str], tmp_path: Path, how: list[str]
) -> None:
    watch = Watch(session, jobs.make())
    with driver(environment, tmp_path / "log", *how) as worker:
        watch.wait_for_blocks(1)
        family = worker.children(recursive=True)
        with transaction() as other:
            control.cancel(other, jobs.project, watch.id)
        assert watch.wait_for_end(20) is State.cancelled
        wait_until(lambda: gone(family))
    assert attempts(session, watch.id) == ["cancelled"]


def test_a_stopped_worker_gives_its_job_back(
    jobs: JobMaker,
    session: Session,
    settings: Settings,
    environment: dict[str, str],
    run: Callable[..., int],
    undisturbed: str,
    tmp_path: Path,
) -> None:
    watch = Watch(session, jobs.make())
    with driver(environment, tmp_path / "log", "slow", "deaf") as worker:
        watch.wait_for_blocks(1)
        family = engines(worker)
        worker.terminate()
        wait_until(lambda: watch.state is State.queued)
        wait_until(lambda: gone([worker, *family]))
    assert attempts(session, watch.id) == ["worker_stopped"]
    assert watch.row.lost_attempts == 0
    run()
    assert watch.row.result is not None
    assert watch.row.result["manifest_digest"] == undisturbed


def test_a_frozen_worker_that_wakes_up_changes_nothing(
    jobs: JobMaker,
    session: Session,
    store: ObjectStore,
    environment: dict[str, str],
    settings: Settings,
    run: Callable[..., int],
    undisturbed: str,
    tmp_path: Path,
) -> None:
    """SIGSTOP past the lease, another worker finishes, SIGCONT: the old one notices and leaves all alone."""
    watch = Watch(session, jobs.make())
    with driver(environment, tmp_path / "log", "slow") as worker:
        watch.wait_for_blocks(2)
        family: list[psutil.Process] = [worker, *engines(worker)]
        for process in family:
            process.send_signal(signal.SIGSTOP)
        finish_in_another_worker(session, watch, settings, run)
        row = watch.row
        before = (row.version, row.last_event, row.manifest, sorted(store.list("jobs")))
        for process in family:
            process.send_signal(signal.SIGCONT)
        wait_until(lambda: gone(family), 20)
    row = watch.row
    assert (row.version, row.last_event, row.manifest) == before[:3]
    assert row.result is not None
    assert row.result["manifest_digest"] == undisturbed
    assert attempts(session, row.id) == ["worker_lost", "succeeded"]


def test_a_worker_whose_token_was_taken_kills_its_engine(
    jobs: JobMaker, session: Session, environment: dict[str, str], settings: Settings, tmp_path: Path
) -> None:
    watch = Watch(session, jobs.make())
    with driver(environment, tmp_path / "log", "slow", "deaf") as worker:
        watch.wait_for_blocks(1)
        family = engines(worker)
        session.execute(update(JobLease).values(token="another's", expires_at=func.now()))
        session.commit()
        wait_until(lambda: gone([worker, *family]), 10)
        events = session.query(JobEvent).filter_by(job_id=watch.id).count()
    assert watch.state is State.running
    assert events == session.query(JobEvent).filter_by(job_id=watch.id).count()
    with transaction() as other:
        assert reap_one(other, 0, budgets(settings)) == (watch.id, State.queued)


def test_a_checkpoint_of_another_format_is_not_used(
    jobs: JobMaker,
    session: Session,
    settings: Settings,
    environment: dict[str, str],
    run: Callable[..., int],
    undisturbed: str,
    tmp_path: Path,
) -> None:
    watch = Watch(session, jobs.make())
    with driver(environment, tmp_path / "log", "slow") as worker:
        watch.wait_for_blocks(5)
        worker.kill()
    session.execute(update(JobBlock).where(JobBlock.job_id == watch.id).values(engine_format=0))
    session.commit()
    finish_in_another_worker(session, watch, settings, run)
    assert watch.row.result is not None
    assert watch.row.result["manifest_digest"] == undisturbed
    assert session.query(JobBlock).filter_by(job_id=watch.id, attempt=2).count() == ALL_BLOCKS
    assert session.query(JobEvent).filter_by(job_id=watch.id, type="restarted").count() == 1


def test_an_s3_store_holds_the_same_artifact(
    jobs: JobMaker,
    session: Session,
    store: ObjectStore,
    settings: Settings,
    seaweed: SeaweedServer,
    undisturbed: str,
    tmp_path: Path,
) -> None:
    on_s3 = s3_settings(settings, seaweed, tmp_path.name)
    other = open_store(on_s3)
    for key, _ in store.list("datasets"):
        other.put_bytes(key, store.get(key))
    watch = Watch(session, jobs.make())
    assert run_jobs(on_s3, "here", SCRIPTED) == 1
    row = watch.row
    assert row.manifest is not None
    assert row.manifest["digest"] == undisturbed
    assert all(other.head(file["key"]) == file["bytes"] for file in row.manifest["files"])
