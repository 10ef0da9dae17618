"""A worker writes only with its token."""

from datetime import timedelta

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.db.engine import transaction
from app.delivery import checkpoint, commits, endings
from app.delivery.claim import claim
from app.delivery.endings import Failure
from app.delivery.lease import Lease, LeaseLost, guard, renew
from app.delivery.object_keys import StoredFile
from app.delivery.publish import make_manifest, publish
from app.delivery.reaper import fail_overdue, fail_unusable, notify_again, notify_all, reap_one
from app.delivery.transitions import transition
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobAttempt, JobBlock, JobEvent, JobLease, Outcome
from app.tables.models import Model
from app.tables.states import ENDINGS, Reason, State
from app.tasks import repository as task_repository
from tests.app.lineage.lineages import evaluate
from tests.jobs import make_jobs
from tests.records import DIGESTS, block_result, hello, stage_result, summary, task_begun, task_result

BUDGETS = {"max_attempts": 3, "max_memory_attempts": 2, "max_preemptions": 4}
BLOCK = commits.Block(block_result(0, 0), "d0", 1, [])


def take() -> Lease:
    with transaction() as session:
        found = claim(session, "w", 60)
        assert found is not None
        return found.lease


def expire(session: Session) -> None:
    session.execute(update(JobLease).values(expires_at=from_now(-1)))
    session.commit()


def reap() -> State | None:
    with transaction() as session:
        found = reap_one(session, 0, BUDGETS)
        return None if found is None else found[1]


@pytest.fixture
def job(session: Session) -> str:
    return make_jobs(session).make()


def outcomes(session: Session, job: str) -> list[str | None]:
    session.expire_all()
    return [row.outcome for row in session.query(JobAttempt).filter_by(job_id=job).order_by(JobAttempt.number)]


def test_renewal_moves_the_end_and_brings_orders(session: Session, job: str) -> None:
    lease = take()
    before = session.get_one(JobLease, job).expires_at
    with transaction() as other:
        assert not renew(other, lease, 120).cancel
    session.expire_all()
    assert session.get_one(JobLease, job).expires_at > before + timedelta(seconds=50)
    session.get_one(Job, job).cancel_requested_at = func.now()
    session.commit()
    with transaction() as other:
        assert renew(other, lease, 120).cancel


def test_an_expired_lease_that_nobody_took_can_be_renewed(session: Session, job: str) -> None:
    lease = take()
    expire(session)
    with transaction() as other:
        renew(other, lease, 60)
    assert reap() is None


def test_a_stale_worker_can_write_nothing(session: Session, job: str) -> None:
    stale = take()
    expire(session)
    assert reap() is State.queued
    current = take()
    assert (current.fence, current.attempt) == (2, 2)
    manifest = make_manifest([StoredFile("a", "0" * 64, 1, "k")], {})
    for write in (
        lambda s: renew(s, stale, 60),
        lambda s: guard(s, stale),
        lambda s: publish(s, stale, manifest, summary()),
        lambda s: endings.fail(s, stale, Failure(Reason.engine_failed), BUDGETS),
        lambda s: endings.stop(s, stale, Outcome.cancelled),
    ):
        with pytest.raises(LeaseLost), transaction() as other:
            write(other)
    session.expire_all()
    assert session.get_one(Job, job).state == State.running
    assert session.get_one(JobLease, job).token == current.token


def test_a_lost_worker_costs_an_attempt_and_the_third_ends_the_job(session: Session, job: str) -> None:
    ends = []
    for _ in range(3):
        take()
        expire(session)
        ends.append(reap())
    assert ends == [State.queued, State.queued, State.failed]
    row = session.get_one(Job, job)
    assert row.failure is not None
    assert (row.failure["code"], row.failure["cause"]) == ("worker_lost", "system")
    assert outcomes(session, job) == ["worker_lost"] * 3


def test_an_attempt_that_made_progress_costs_nothing(session: Session, job: str) -> None:
    for block in range(5):
        lease = take()
        with transaction() as other:
            guard(other, lease)
            commits.write_block(other, lease, commits.Block(block_result(0, block), "d0", 1, []))
        expire(session)
        assert reap() is State.queued
    assert session.get_one(Job, job).lost_attempts == 0


def test_an_attempt_that_did_a_task_costs_nothing(session: Session, job: str) -> None:
    for number in range(5):
        lease = take()
        with transaction() as other:
            guard(other, lease)
            commits.write_task_begun(other, lease, task_begun(number))
            commits.write_task(other, lease, task_result(number))
            commits.write_task_begun(other, lease, task_begun(number + 1))
        expire(session)
        assert reap() is State.queued
    assert session.get_one(Job, job).lost_attempts == 0
    take()
    expire(session)
    assert reap() is State.queued
    assert session.get_one(Job, job, populate_existing=True).lost_attempts == 1, "what others did is no progress"


@pytest.mark.parametrize(
    ("reason", "broken"),
    [
        (Reason.out_of_memory, True),
        (Reason.engine_killed, True),
        (Reason.engine_stalled, True),
        (Reason.device_unavailable, True),
        (Reason.worker_stopped, False),
        (Reason.device_shared, False),
        (Outcome.paused, False),
    ],
)
def test_a_task_in_which_an_attempt_ended_is_known(
    session: Session, job: str, reason: Reason | Outcome, broken: bool
) -> None:
    lease = take()
    with transaction() as other:
        guard(other, lease)
        commits.write_task_begun(other, lease, task_begun(0))
        commits.write_task(other, lease, task_result(0))
        commits.write_task_begun(other, lease, task_begun(1))
    assert checkpoint.load(session, job).broken == (), "it goes on"
    with transaction() as other:
        if isinstance(reason, Outcome):
            endings.stop(other, lease, reason)
        else:
            endings.fail(other, lease, Failure(reason), BUDGETS)
    session.rollback()
    found = checkpoint.load(session, job)
    assert [each["task"] for each in found.tasks] == [0]
    assert [(each.task, each.model) for each in found.broken] == ([(1, "dense")] if broken else [])
    assert all(each.why == ENDINGS[Reason(reason)].message for each in found.broken)


def test_a_block_that_is_committed_once_more_keeps_what_the_artifact_will_have(session: Session, job: str) -> None:
    lease = take()
    rounds = (("weights", "shard", "1"), ("sensitivity", "scores", "1")), (("weights", "shard", "2"),)
    for files in rounds:
        stored = [{"role": role, "path": path, "sha256": own, "bytes": 1, "key": own} for role, path, own in files]
        with transaction() as other:
            guard(other, lease)
            commits.write_block(other, lease, commits.Block(block_result(0, 0), "d0", 1, stored))
    session.rollback()
    found = session.get_one(JobBlock, (job, 0, 0)).files
    assert {file["path"]: file["sha256"] for file in found} == {"shard": "2", "scores": "1"}
    with transaction() as other:
        assert [file.path for file in checkpoint.load(other, job).files] == ["shard"]
        assert [file.path for file in checkpoint.kept_files(other, job, [])] == ["scores"]


def test_nothing_is_committed_behind_a_gap(session: Session, job: str) -> None:
    """As when a replica takes over that has not seen the last commits."""
    lease = take()

    def write(stage: int, block: int) -> None:
        with transaction() as other:
            guard(other, lease)
            commits.write_block(other, lease, commits.Block(block_result(stage, block), f"d{stage}", 1, []))

    def finish() -> None:
        with transaction() as other:
            guard(other, lease)
            commits.write_stage(other, lease, stage_result(0, "d0"))

    with transaction() as other:
        commits.write_hello(other, lease, hello().model_copy(update={"blocks": 3}), ["d0", "d1"])
    write(0, 0)
    with pytest.raises(commits.CommitsLost):
        write(0, 2)
    write(0, 1)
    with pytest.raises(commits.CommitsLost):
        finish()
    write(0, 2)
    with pytest.raises(commits.CommitsLost):
        write(1, 0)
    finish()
    write(1, 0)
    found = checkpoint.load(session, job)
    assert (found.stages, found.blocks) == (1, 1)


def test_a_checkpoint_has_no_losses_of_windows(session: Session, job: str) -> None:
    """The engine asks for none of them, and a lineage has a great many."""
    evaluate(session, job, 0, law=10.0)
    evaluate(session, job, 1, code=4.0, law=11.0)
    assert checkpoint.load(session, job).evaluations == tuple(
        {"row": row, "domain": domain, "perplexity": perplexity, "protocol": {"dtype": "float32"}}
        for row, domain, perplexity in ((0, "law", 10.0), (1, "code", 4.0), (1, "law", 11.0))
    )


def test_a_lost_worker_ends_a_cancelled_job(session: Session, job: str) -> None:
    take()
    transition(session, session.get_one(Job, job), State.cancelling)
    session.commit()
    expire(session)
    assert reap() is State.cancelled
    assert outcomes(session, job) == ["cancelled"]


def test_no_lease_is_taken_right_after_a_restart_of_the_database(session: Session, job: str) -> None:
    take()
    expire(session)
    with transaction() as other:
        assert reap_one(other, 10**6, BUDGETS) is None


def test_a_lease_that_is_being_used_is_not_taken(session: Session, job: str) -> None:
    lease = take()
    expire(session)
    with transaction() as writer:
        guard(writer, lease)
        assert reap() is None


def test_giving_back_costs_no_attempt_and_rings(session: Session, job: str) -> None:
    lease = take()
    with transaction() as other:
        assert endings.fail(other, lease, Failure(Reason.worker_stopped), BUDGETS) is State.queued
    row = session.get_one(Job, job)
    assert (row.lost_attempts, row.preemptions, row.phase) == (0, 1, None)
    assert take().attempt == 2


def test_a_failed_engine_waits_before_the_next_attempt(session: Session, job: str) -> None:
    lease = take()
    with transaction() as other:
        assert endings.fail(other, lease, Failure(Reason.engine_failed), BUDGETS) is State.queued
    with transaction() as other:
        assert claim(other, "w", 60) is None


def test_cancel_before_publishing_wins(session: Session, job: str) -> None:
    lease = take()
    transition(session, session.get_one(Job, job), State.cancelling)
    session.commit()
    manifest = make_manifest([StoredFile("a", "0" * 64, 1, "k")], {})
    with transaction() as other:
        assert publish(other, lease, manifest, summary()) is State.cancelled
    session.expire_all()
    assert session.get_one(Job, job).manifest is None


def test_publishing_before_cancel_wins(session: Session, job: str) -> None:
    lease = take()
    manifest = make_manifest([StoredFile("a", "0" * 64, 1, "k")], {})
    with transaction() as other:
        assert publish(other, lease, manifest, summary()) is State.succeeded
    session.expire_all()
    row = session.get_one(Job, job)
    assert row.result == {
        "manifest_digest": manifest["digest"],
        "bytes": 1,
        "files": 1,
        "sparsity": 0.5,
        "mean_perplexity": None,
        "dense_mean_perplexity": None,
        "bwt": None,
        "log_bwt": None,
        **DIGESTS,
        "warnings": [],
    }
    types = [event.type for event in session.query(JobEvent).filter_by(job_id=job).order_by(JobEvent.seq)]
    assert types[-3:] == [EventType.attempt_ended, EventType.published, EventType.transition]
    assert session.get(JobLease, job) is None


def test_a_block_committed_twice_is_one_block(session: Session, job: str) -> None:
    lease = take()
    for _ in range(2):
        with transaction() as other:
            guard(other, lease)
            commits.write_block(other, lease, BLOCK)
    assert session.query(JobBlock).count() == 1
    events = [event.type for event in session.query(JobEvent).order_by(JobEvent.seq)]
    assert events.count(EventType.stage_started) == 1


def test_a_job_over_a_failed_model_ends(session: Session, job: str) -> None:
    session.query(Model).update({"state": "failed"})
    session.commit()
    with transaction() as other:
        assert fail_unusable(other) == 1
    row = session.get_one(Job, job, populate_existing=True)
    assert row.failure is not None
    assert (row.state, row.failure["code"], row.failure["field"]) == (State.failed, "model_failed", "/model")


def test_an_unanswered_bell_rings_again_later_each_time(session: Session, job: str) -> None:
    row = session.get_one(Job, job)

    def notified_after(seconds: float, notifications: int) -> int:
        row.notified_at = row.available_at = from_now(-seconds)
        row.notifications = notifications
        session.commit()
        with transaction() as other:
            found = notify_again(other, 10)
            other.rollback()
        return found

    assert notified_after(5, 0) == 0
    assert notified_after(11, 0) == 1
    assert notified_after(11, 1) == 1
    assert notified_after(11, 2) == 0
    assert notified_after(21, 2) == 1
    with transaction() as other:
        assert notify_all(other) == 1
    with transaction() as other:
        assert notify_all(other) == 0, "a message is waiting already"


def test_a_job_that_waits_for_too_long_fails(session: Session, job: str) -> None:
    row = session.get_one(Job, job)
    row.max_pending_seconds, row.queued_at = 60, from_now(-59)
    session.commit()
    for seconds, count in ((-59, 0), (-61, 1), (-61, 0)):
        session.execute(update(Job).values(queued_at=from_now(seconds)))
        session.commit()
        with transaction() as other:
            assert fail_overdue(other) == count
    row = session.get_one(Job, job, populate_existing=True)
    assert row.failure is not None
    assert (row.state, row.failure["code"]) == (State.failed, "max_pending")
    assert row.failure["field"] == "/limits/max_pending"


def test_time_counts_from_the_last_entry_into_the_queue(session: Session, job: str) -> None:
    session.execute(update(Job).values(max_pending_seconds=60, queued_at=from_now(-600)))
    session.commit()
    lease = take()
    with transaction() as other:
        assert endings.fail(other, lease, Failure(Reason.worker_stopped), BUDGETS) is State.queued
        assert fail_overdue(other) == 0


def test_runtime_is_the_sum_of_the_attempts(session: Session, job: str) -> None:
    session.execute(update(Job).values(max_runtime_seconds=100))
    session.commit()
    for spent in (20, 30):
        lease = take()
        session.execute(update(JobAttempt).values(started_at=from_now(-spent)))
        session.commit()
        with transaction() as other:
            endings.fail(other, lease, Failure(Reason.worker_stopped), BUDGETS)
    lost = take()
    # What a lost worker did after its last heartbeat is not known, and is not held against the job.
    session.execute(update(JobAttempt).values(started_at=from_now(-1000)))
    session.execute(update(JobLease).values(heartbeat_at=from_now(-990), expires_at=from_now(-1)))
    session.commit()
    assert reap() is State.queued
    with transaction() as other:
        found = claim(other, "w", 60)
        assert found is not None
        assert found.lease.fence == lost.fence + 1
        assert found.runtime_left == pytest.approx(100 - 20 - 30 - 10, abs=5)
        assert renew(other, found.lease, 60).runtime_left == pytest.approx(found.runtime_left)


def test_tasks_that_nobody_heard_of_are_notified_again(session: Session) -> None:
    with transaction() as other:
        assert task_repository.notify_again(other, 1) == 0
