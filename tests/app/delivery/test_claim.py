"""Who gets which job."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.db.engine import transaction
from app.delivery.claim import LOST_LATELY_SECONDS, Claim, claim
from app.delivery.endings import Failure, fail
from app.tables.datasets import Dataset
from app.tables.jobs import Job, JobAttempt, JobLease
from app.tables.models import Model
from app.tables.states import Reason, State
from tests.jobs import JobMaker, make_jobs


def take(worker: str = "w") -> Claim | None:
    with transaction() as session:
        return claim(session, worker, 60)


def taken() -> str | None:
    found = take()
    return found and found.lease.job_id


def test_nothing_to_do(session: Session) -> None:
    assert take() is None


def test_a_claim_is_an_attempt_with_a_lease(session: Session) -> None:
    id = make_jobs(session).make()
    found = take("gpu0@host")
    assert found is not None
    job, lease = session.get_one(Job, id), session.get_one(JobLease, id)
    attempt = session.get_one(JobAttempt, (id, 1))
    assert (job.state, job.phase, job.attempts, job.fence) == (State.running, "staging", 1, 1)
    assert (lease.token, lease.fence) == (found.lease.token, 1)
    assert (attempt.worker, attempt.ended_at) == ("gpu0@host", None)
    assert job.started_at is not None


def test_priority_then_age(session: Session) -> None:
    jobs = make_jobs(session)
    old, young, urgent = jobs.make(), jobs.make(), jobs.make(priority=5)
    assert [taken(), taken(), taken(), taken()] == [urgent, old, young, None]


def lose(worker: str, reason: Reason, seconds_ago: float = 0) -> str:
    """Id of the best job, which this worker takes, loses, and which may be claimed again."""
    found = take(worker)
    assert found is not None
    with transaction() as session:
        fail(session, found.lease, Failure(reason), dict.fromkeys(("max_attempts", "max_preemptions"), 3))
        session.execute(update(Job).where(Job.id == found.lease.job_id).values(available_at=from_now(-600)))
        session.execute(update(JobAttempt).values(ended_at=from_now(-seconds_ago)))
    return found.lease.job_id


def test_a_job_goes_to_another_worker_than_the_one_that_just_lost_it(session: Session) -> None:
    jobs = make_jobs(session)
    lost, other = jobs.make(priority=5), jobs.make()
    assert lose("sick", Reason.store_failed) == lost
    found = [take("sick"), take("sick")]
    assert [each and each.lease.job_id for each in found] == [other, lost], "it is last, but its turn comes"


@pytest.mark.parametrize(
    ("worker", "reason", "seconds_ago"),
    [
        ("healthy", Reason.store_failed, 0),
        ("sick", Reason.worker_stopped, 0),
        ("sick", Reason.store_failed, LOST_LATELY_SECONDS + 60),
    ],
)
def test_a_lost_job_keeps_its_place_for_other_workers_and_later(
    session: Session, worker: str, reason: Reason, seconds_ago: float
) -> None:
    jobs = make_jobs(session)
    lost, _ = jobs.make(priority=5), jobs.make()
    assert lose("sick", reason, seconds_ago) == lost
    found = take(worker)
    assert found is not None
    assert found.lease.job_id == lost


def test_the_project_with_fewest_running_jobs_goes_first(session: Session) -> None:
    ours, theirs = make_jobs(session), make_jobs(session, name="theirs")
    first, second = ours.make(), ours.make()
    third = theirs.make()
    assert [taken(), taken(), taken()] == [first, third, second]


def test_a_job_waits_for_its_model_and_datasets(session: Session) -> None:
    jobs = make_jobs(session)
    model = session.get_one(Model, jobs.model)
    dataset = session.get_one(Dataset, jobs.datasets[0])
    model.state = dataset.state = "pending"
    id = jobs.make()
    assert taken() is None
    model.state = "ready"
    session.commit()
    assert taken() is None
    dataset.state = "ready"
    session.commit()
    assert taken() == id


def test_a_job_waits_for_its_time(session: Session) -> None:
    id = make_jobs(session).make()
    session.get_one(Job, id).available_at = from_now(60)
    session.commit()
    assert taken() is None


def test_many_workers_never_get_the_same_job(session: Session) -> None:
    jobs: JobMaker = make_jobs(session)
    made = {jobs.make() for _ in range(12)}
    with ThreadPoolExecutor(8) as pool:
        found = [id for id in pool.map(lambda _: taken(), range(20)) if id is not None]
    # A worker that met a locked row may have gone away empty; whoever comes next gets it.
    while (id := taken()) is not None:
        found.append(id)
    assert len(found) == len(set(found))
    assert set(found) == made
