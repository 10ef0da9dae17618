"""Who goes first when projects compete: by service had lately, exactly, however the jobs arrive."""

import math
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery.claim import Claim, claim
from app.delivery.endings import Failure, fail, stop
from app.delivery.queue_order import Place, place_of
from app.settings import get_settings
from app.tables.accounts import ProjectAccount, ProjectService
from app.tables.jobs import Job, JobAttempt, JobLease, Outcome
from app.tables.outbox import OutboxMessage
from app.tables.states import Reason, State
from tests.jobs import make_jobs

MOMENTS = {
    "jobs": ("available_at", "created_at"),
    "job_leases": ("claimed_at", "heartbeat_at"),
    "job_attempts": ("started_at",),
    "project_service": ("at",),
}
HOUR = 3600.0


def pass_time(seconds: float) -> None:
    """Let that much time go by: what happened is as much longer ago."""
    with transaction() as session:
        for table, columns in MOMENTS.items():
            earlier = ", ".join(f"{each} = {each} - make_interval(secs => :seconds)" for each in columns)
            session.execute(text(f"UPDATE {table} SET {earlier}"), {"seconds": seconds})  # noqa: S608


def take(worker: str = "w") -> Claim | None:
    with transaction() as session:
        return claim(session, worker, 1e6)


def must_take() -> Claim:
    found = take()
    assert found is not None
    return found


def end(taken: Claim) -> None:
    """The attempt's job is over."""
    with transaction() as session:
        session.execute(update(Job).where(Job.id == taken.lease.job_id).values(state=State.cancelling))
        stop(session, taken.lease, Outcome.cancelled)


def run(seconds: float) -> str:
    """One worker runs the next job for so long; the job's project."""
    taken = must_take()
    pass_time(seconds)
    end(taken)
    return taken.project_id


def set_account(session: Session, project: str, share: float = 1.0, **quotas: int | None) -> None:
    session.merge(ProjectAccount(project_id=project, share=share, quotas=quotas))
    session.commit()


@contextmanager
def settings_of(monkeypatch: pytest.MonkeyPatch, **changed: str) -> Iterator[None]:
    for name, value in changed.items():
        monkeypatch.setenv(f"SECATEUR_{name.upper()}", value)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_a_single_job_goes_next_after_a_queue_of_six_of_another_project(session: Session) -> None:
    six, one = make_jobs(session, name="six"), make_jobs(session, name="one")
    for _ in range(6):
        six.make()
    assert run(60) == six.project
    one.make(priority=-5)
    order = [run(60) for _ in range(6)]
    assert order == [one.project, *[six.project] * 5]


def test_priority_counts_within_a_project_only(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    loud, quiet = make_jobs(session, name="loud"), make_jobs(session, name="quiet")
    loud.make(priority=1)
    urgent = loud.make(priority=100)
    other = quiet.make()
    first = must_take()
    assert first.lease.job_id == urgent, "both have had nothing yet: the older project's turn, its best job"
    assert place(session, other) == Place(0, at_limit=False)
    assert must_take().lease.job_id == other
    loud.make(priority=100)
    third = quiet.make(priority=1)
    pass_time(10)
    end(first)
    with settings_of(monkeypatch, priority_across_projects="true"):
        assert place(session, third) == Place(1, at_limit=False)
        assert must_take().project_id == loud.project


@pytest.mark.parametrize("seconds", [100.0, 5 * HOUR])
def test_service_is_the_integral_of_decayed_worker_time(session: Session, seconds: float) -> None:
    """Closed form: ∫ 2^(-t/h) dt over the attempt, halved again with each half-life after it."""
    jobs = make_jobs(session)
    jobs.make()
    run(seconds)
    half_life = 24 * HOUR
    expected = half_life / math.log(2) * (1 - 2 ** (-seconds / half_life))
    row = session.get_one(ProjectService, (jobs.project, "gpu"))
    assert row.seconds == pytest.approx(expected, rel=1e-3, abs=10)
    session.commit()
    pass_time(half_life)
    jobs.make()
    run(0)
    session.refresh(row)
    assert row.seconds == pytest.approx(expected / 2, rel=1e-3, abs=10)


def test_a_lost_worker_is_charged_until_its_last_heartbeat(session: Session) -> None:
    jobs = make_jobs(session)
    jobs.make()
    taken = must_take()
    pass_time(1000)
    session.execute(text("UPDATE job_leases SET heartbeat_at = now() - interval '400 seconds'"))
    session.commit()
    with transaction() as other:
        fail(other, taken.lease, Failure(Reason.worker_lost), {"max_attempts": 3})
    row = session.get_one(ProjectService, (jobs.project, "gpu"))
    assert row.seconds == pytest.approx(600, rel=0.01)


def test_deleting_a_job_takes_no_service_back(session: Session) -> None:
    jobs = make_jobs(session)
    jobs.make()
    run(500)
    session.execute(text("DELETE FROM jobs"))
    session.commit()
    assert session.get_one(ProjectService, (jobs.project, "gpu")).seconds > 400


def test_what_runs_counts_from_its_first_moment(session: Session) -> None:
    """Four workers that are free at once are shared, though the first project has had a little less."""
    poor, rich = make_jobs(session, name="poor"), make_jobs(session, name="rich")
    rich.make()
    run(10)
    for _ in range(4):
        poor.make()
        rich.make()
    order = [must_take().project_id for _ in range(4)]
    assert order == [poor.project, rich.project, poor.project, rich.project]


def test_a_project_at_its_limit_waits_for_one_of_its_own(session: Session) -> None:
    bounded, other = make_jobs(session, name="bounded"), make_jobs(session, name="other")
    set_account(session, bounded.project, running_jobs=1)
    bounded.make()
    waiting, last = bounded.make(), other.make()
    first = must_take()
    assert first.project_id == bounded.project
    assert place(session, waiting).at_limit
    assert place(session, last) == Place(0, at_limit=False)
    assert must_take().lease.job_id == last
    assert take() is None
    end(first)
    assert waiting in session.scalars(select(OutboxMessage.hint)), "idle workers are told"
    session.commit()
    assert must_take().lease.job_id == waiting


def test_a_project_of_its_own_quota_may_run_more_than_the_setting(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = make_jobs(session)
    for _ in range(3):
        jobs.make()
    with settings_of(monkeypatch, quota_running_jobs="1"):
        assert take() is not None
        assert take() is None
        set_account(session, jobs.project, running_jobs=None)
        assert take() is not None


def test_parallel_claims_never_pass_the_limit(session: Session) -> None:
    jobs = make_jobs(session)
    set_account(session, jobs.project, running_jobs=3)
    for _ in range(10):
        jobs.make()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: take(), range(16)))
    while take() is not None:  # who met locked rows may have gone away empty
        pass
    assert len(session.scalars(select(JobLease)).all()) == 3


def place(session: Session, id: str) -> Place:
    session.commit()
    found = place_of(session, id)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_place_in_the_queue_is_the_order_of_claims(
    session: Session, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random queues: what `place_of` says of every job is when it is then claimed."""
    random_ = random.Random(seed)
    makers = [make_jobs(session, name=f"p{i}") for i in range(4)]
    for maker in makers:
        limit = random_.choice([None, 9])
        set_account(session, maker.project, random_.choice([0.5, 1.0, 3.0]), running_jobs=limit)
        for _ in range(random_.randrange(3)):
            maker.make()
    while (taken := take()) is not None:
        pass_time(random_.uniform(1, 5000))
        end(taken)
    made = [maker.make(priority=random_.randrange(3)) for maker in makers for _ in range(1 + random_.randrange(6))]
    with settings_of(monkeypatch, priority_across_projects=str(seed % 2)):
        foretold = {id: place(session, id).ahead for id in made}
        order = [must_take().lease.job_id for _ in made]
    assert sorted(made, key=lambda id: foretold[id]) == order
    assert sorted(foretold.values()) == list(range(len(made)))


def test_a_job_that_is_not_queued_has_no_place(session: Session) -> None:
    id = make_jobs(session).make()
    assert place_of(session, id) == Place(0, at_limit=False)
    session.commit()
    must_take()
    assert place_of(session, id) is None


@pytest.mark.parametrize("seed", range(3))
def test_no_project_with_work_gets_less_than_its_share(session: Session, seed: int) -> None:
    """Random arrivals and lengths, one worker: who always waits has its share of all time, to within one job.

    Those that come and go may make up for their own absence, and for no more than that.
    """
    random_ = random.Random(seed)
    longest, total = 900.0, 0.0
    shares = (1.0, 1.0, 2.0, 0.5)
    often = (1.0, 1.0, random_.choice([0.1, 0.4]), random_.choice([0.1, 0.4]))
    makers = [make_jobs(session, name=f"t{i}") for i in range(len(shares))]
    number = {maker.project: i for i, maker in enumerate(makers)}
    for maker, share in zip(makers, shares, strict=True):
        set_account(session, maker.project, share)
    waiting, had = [0] * len(shares), [0.0] * len(shares)
    for _ in range(60):
        for i, maker in enumerate(makers):
            if waiting[i] < 2 and random_.random() < often[i]:
                maker.make(priority=random_.randrange(100))
                waiting[i] += 1
        seconds = random_.uniform(30, longest)
        i = number[run(seconds)]
        waiting[i] -= 1
        had[i] += seconds
        total += seconds
    for i in (0, 1):
        assert had[i] >= total * shares[i] / sum(shares) - longest
    assert abs(had[0] - had[1]) <= longest


def test_attempts_of_one_project_end_side_by_side(session: Session) -> None:
    """Each writes the same row of service; none is lost."""
    jobs = make_jobs(session)
    for _ in range(8):
        jobs.make()
    taken = [must_take() for _ in range(8)]
    pass_time(100)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(end, taken))
    assert session.get_one(ProjectService, (jobs.project, "gpu")).seconds == pytest.approx(800, rel=0.01)
    assert session.scalars(select(JobAttempt).where(JobAttempt.ended_at.is_(None))).all() == []


def test_a_project_that_was_idle_for_years_stops_nobody(session: Session) -> None:
    """PostgreSQL refuses an exponential that underflows, and the claim looks at all who wait."""
    old, other = make_jobs(session, name="old"), make_jobs(session, name="other")
    old.make()
    run(60)
    pass_time(200 * 365 * 24 * HOUR)
    old.make()
    other.make()
    assert {run(60), run(60)} == {old.project, other.project}


def test_no_limit_that_can_be_set_stops_a_claim(session: Session) -> None:
    jobs = make_jobs(session)
    set_account(session, jobs.project, share=0.001, running_jobs=2**53)
    assert place(session, jobs.make()) == Place(0, at_limit=False)
    assert must_take().project_id == jobs.project
