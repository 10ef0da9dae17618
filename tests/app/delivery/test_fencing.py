"""A worker that was frozen past its lease: whatever it tries after waking up, no row, object or event changes."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.db.engine import transaction
from app.delivery import checkpoint, commits, endings, input_digests
from app.delivery.claim import Claim, claim
from app.delivery.endings import Failure
from app.delivery.lease import Lease, LeaseLost, guard, renew
from app.delivery.object_keys import StoredFile, attempt_folder
from app.delivery.publish import make_manifest, publish
from app.delivery.reaper import reap_one
from app.garbage.sweep import Sweep
from app.storage import ObjectStore
from app.tables import METADATA
from app.tables.jobs import Job, JobLease, Outcome
from app.tables.states import Reason
from app.tables.tasks import Task
from app.tasks import service as tasks
from app.tasks.service import TaskLost
from secateur.spec.records.history import Phase
from secateur.spec.records.pipe import Note, Progress
from tests.app.delivery.test_lease import BUDGETS
from tests.jobs import make_jobs
from tests.records import block_result, evaluation, hello, stage_result, summary, task_begun, task_result
from worker.attempt.interrupts import Interrupts, transact
from worker.attempt.uploads import Uploads

FILE = {"role": "weights", "path": "p", "sha256": "", "bytes": 1, "key": "k"}
BLOCK = commits.Block(block_result(0, 0), "d0", 1, [FILE])
MANIFEST = make_manifest([StoredFile("a", "0" * 64, 1, "k")], {})

GUARDED: dict[str, Callable[[Session, Lease], object]] = {
    "write_hello": lambda s, lease: commits.write_hello(s, lease, hello(9), ["d0"]),
    "write_phase": lambda s, lease: commits.write_phase(s, lease, Phase.publishing),
    "write_progress": lambda s, lease: commits.write_progress(
        s, lease, Progress(phase=Phase.pruning, stage=0, fraction=0.9)
    ),
    "write_evaluation": lambda s, lease: commits.write_evaluation(s, lease, evaluation(0)),
    "write_task_begun": lambda s, lease: commits.write_task_begun(s, lease, task_begun()),
    "write_task": lambda s, lease: commits.write_task(s, lease, task_result()),
    "write_log": lambda s, lease: commits.write_log(s, lease, [commits.LogLine(1, "info", "late")]),
    "write_note": lambda s, lease: commits.write_note(s, lease, Note(level="info", message="late")),
    "write_block": lambda s, lease: commits.write_block(s, lease, BLOCK),
    "write_stage": lambda s, lease: commits.write_stage(s, lease, stage_result(0, "d0")),
    "discard": lambda s, lease: checkpoint.discard(s, lease, "late"),
    "settle": lambda s, lease: input_digests.settle(s, lease, {"model": "late"}),
}
"""What runs behind `guard`, in the supervisor's own way of committing."""
SELF_GUARDED: dict[str, Callable[[Session, Lease], object]] = {
    "renew": lambda s, lease: renew(s, lease, 60),
    "publish": lambda s, lease: publish(s, lease, dict(MANIFEST), summary()),
    "fail": lambda s, lease: endings.fail(s, lease, Failure(Reason.engine_failed), BUDGETS),
    "stop": lambda s, lease: endings.stop(s, lease, Outcome.cancelled),
}


def test_every_write_of_a_worker_is_tried_here() -> None:
    writes = {name for name in vars(commits) if name.startswith("write_")}
    assert writes <= set(GUARDED)


@pytest.fixture
def stale(session: Session) -> Claim:
    """The claim of a frozen worker whose job another one has taken up since."""
    make_jobs(session).make()
    frozen = take()
    session.execute(update(JobLease).values(expires_at=from_now(-1)))
    session.commit()
    with transaction() as other:
        assert reap_one(other, 0, BUDGETS) is not None
    assert take().lease.fence == frozen.lease.fence + 1
    return frozen


def take() -> Claim:
    with transaction() as session:
        taken = claim(session, "w", 60)
        assert taken is not None
        return taken


def everything(session: Session) -> dict[str, list[Any]]:
    """Every row of every table."""
    session.rollback()
    return {
        table.name: [tuple(row) for row in session.execute(select(table).order_by(*table.primary_key))]
        for table in METADATA.sorted_tables
    }


@pytest.mark.parametrize("name", GUARDED)
def test_a_guarded_write_changes_nothing(session: Session, stale: Claim, name: str) -> None:
    before = everything(session)
    with pytest.raises(LeaseLost):
        transact(Interrupts(), lambda s: guard(s, stale.lease), lambda s: GUARDED[name](s, stale.lease))
    assert everything(session) == before


@pytest.mark.parametrize("name", SELF_GUARDED)
def test_a_write_that_guards_itself_changes_nothing(session: Session, stale: Claim, name: str) -> None:
    before = everything(session)
    with pytest.raises(LeaseLost), transaction() as other:
        SELF_GUARDED[name](other, stale.lease)
    assert everything(session) == before


@pytest.mark.parametrize("name", [*GUARDED, *SELF_GUARDED])
def test_the_same_write_of_the_holder_does_change_something(session: Session, name: str) -> None:
    """Else the tests above would prove nothing."""
    make_jobs(session).make()
    lease = take().lease
    session.execute(update(JobLease).values(expires_at=from_now(1)))
    session.commit()
    before = everything(session)
    with transaction() as other:
        guard(other, lease)
        {**GUARDED, **SELF_GUARDED}[name](other, lease)
    assert everything(session) != before


def test_a_late_upload_touches_nobodys_objects(
    session: Session, stale: Claim, store: ObjectStore, tmp_path: Path
) -> None:
    """The same content by both workers: each has its own object, and the late one is garbage."""
    (tmp_path / "weights").write_bytes(b"the same")
    job = session.get_one(Job, stale.lease.job_id)
    keys = {}
    for fence in (job.fence, stale.lease.fence):
        folder = attempt_folder(stale.root, job.id, fence)
        keys[fence] = Uploads(store, folder, tmp_path, Interrupts()).put_block("weights", 0).key
    assert keys[job.fence] != keys[stale.lease.fence]
    assert Sweep(store, lambda: None, timedelta(0)).everything() == 1
    assert {key for key, _ in store.list("jobs")} == {keys[job.fence]}


@pytest.mark.parametrize("how", ["renew", "guard", "finish", "retry", "give_back"])
def test_a_stale_token_of_a_task_changes_nothing(session: Session, how: str) -> None:
    tasks.order_sweep(session, "job_x")
    session.commit()
    with transaction() as other:
        old = tasks.claim(other, "w", 60)
        assert old is not None
    session.execute(update(Task).values(lease_expires_at=from_now(-1)))
    session.commit()
    with transaction() as other:
        assert tasks.reap(other, 0, 3) == [old.id]
    with transaction() as other:
        assert tasks.claim(other, "w", 60) is not None
    calls: dict[str, Callable[[Session], object]] = {
        "renew": lambda s: tasks.renew(s, old.id, old.token, 60),
        "guard": lambda s: tasks.guard(s, old.id, old.token),
        "finish": lambda s: tasks.finish(s, old),
        "retry": lambda s: tasks.retry(s, old, 3),
        "give_back": lambda s: tasks.give_back(s, old),
    }
    before = everything(session)
    with pytest.raises(TaskLost), transaction() as other:
        calls[how](other)
    assert everything(session) == before
