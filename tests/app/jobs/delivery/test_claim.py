"""Who gets which job."""

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy.orm import Session

from app.datasets.tables import Dataset
from app.db.clock import from_now
from app.db.engine import transaction
from app.jobs.delivery.claim import Claim, claim
from app.jobs.states import State
from app.jobs.tables import Job, JobAttempt, JobLease
from app.models.tables import Model
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
