"""Which worker gets which job, by what the job needs and the worker has."""

import random

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.db.engine import transaction
from app.delivery import sizing
from app.delivery.claim import MOST_ASKED, claim
from app.delivery.handing_on import ring_for
from app.delivery.queue_order import place_of
from app.settings import get_settings
from app.tables.jobs import Job
from app.tables.models import Model
from app.tables.outbox import OutboxMessage
from app.tables.tasks import Task
from app.tables.workers import Worker
from app.workers import devices, registry
from secateur.spec.records.machine import Machine
from secateur.spec.records.plan import Needs
from tests.jobs import make_jobs
from tests.machines import GIB, cpu, gpu


def taken(worker: str, *, harness: bool = False) -> str | None:
    with transaction() as session:
        found = claim(session, worker, 60, harness=harness)
        return found and found.lease.job_id


def register(session: Session, **machines: Machine) -> None:
    for name, machine in machines.items():
        registry.register(session, name, machine)
    session.commit()


def need(session: Session, job: str, memory: float = 0, host: float = 0, device: float = 0) -> None:
    """In GiB."""
    names = {"needs_memory_bytes": memory, "needs_host_bytes": host, "needs_device_bytes": device}
    values = {name: round(size * GIB) for name, size in names.items()}
    session.execute(update(Job).where(Job.id == job).values(**values))
    session.commit()


def test_a_large_job_waits_for_a_worker_that_holds_it_and_nobody_waits_behind_it(session: Session) -> None:
    ours, theirs = make_jobs(session), make_jobs(session, name="theirs")
    large, small, other = ours.make(priority=9), ours.make(), theirs.make()
    need(session, large, memory=200, host=40, device=60)
    need(session, small, memory=20, host=4, device=16)
    register(session, small=gpu(24), large=gpu(80))
    assert taken("small") == small
    assert taken("small") == other
    assert taken("small") is None
    assert taken("large") == large


@pytest.mark.parametrize("by_memory", [True, False])
def test_a_job_with_tasks_waits_for_a_worker_with_the_harness(
    session: Session, monkeypatch: pytest.MonkeyPatch, by_memory: bool
) -> None:
    monkeypatch.setenv("SECATEUR_ROUTE_BY_MEMORY", str(by_memory))
    get_settings.cache_clear()
    ours = make_jobs(session)
    asking, plain = ours.make(priority=9, tasks=[{"name": "arc_easy"}]), ours.make()
    register(session, without=cpu(), having=cpu(harness="0.4.13"))
    assert [kind.workers for kind in registry.kinds(session)] == [1, 1]
    assert taken("without") == plain
    assert taken("without") is None
    bells = session.query(OutboxMessage).filter_by(hint=asking, published_at=None).count()
    assert bells, "the other worker is rung for"
    assert taken("having", harness=True) == asking
    get_settings.cache_clear()


def test_a_worker_without_a_row_still_knows_whether_it_has_the_harness(session: Session) -> None:
    asking = make_jobs(session).make(tasks=[{"name": "arc_easy"}])
    assert taken("without") is None
    assert taken("having", harness=True) == asking


@pytest.mark.parametrize(
    ("machine", "holds"),
    [
        (gpu(60, 40), True),
        (gpu(59.9, 40), False),
        (gpu(60, 39.9), False),
        (cpu(100), True),
        (cpu(99.9), False),
    ],
)
def test_each_kind_of_memory_counts_where_it_is_used(session: Session, machine: Machine, holds: bool) -> None:
    job = make_jobs(session).make()
    need(session, job, memory=100, host=40, device=60)
    register(session, one=machine)
    assert place_of(session, job).held is holds  # type: ignore[union-attr]
    assert taken("one") == (job if holds else None)


def test_a_job_without_an_estimate_and_a_worker_without_a_row_take_each_other(session: Session) -> None:
    jobs = make_jobs(session)
    unknown, known = jobs.make(), jobs.make()
    need(session, known, 1000, 1000, 1000)
    register(session, tiny=gpu(1, 1))
    assert [taken("tiny"), taken("tiny"), taken("new")] == [unknown, None, known]


def test_an_operator_may_switch_it_off(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_jobs(session).make()
    need(session, job, 1000, 1000, 1000)
    register(session, tiny=gpu(1, 1))
    assert taken("tiny") is None
    monkeypatch.setenv("SECATEUR_ROUTE_BY_MEMORY", "false")
    get_settings.cache_clear()
    assert place_of(session, job).held  # type: ignore[union-attr]
    assert taken("tiny") == job
    get_settings.cache_clear()


def test_what_is_being_estimated_is_not_claimed_until_its_time_is_over(session: Session) -> None:
    job = make_jobs(session).make()
    session.execute(update(Job).values(estimate_due_at=from_now(60)))
    session.commit()
    assert taken("w") is None
    session.execute(update(Job).values(estimate_due_at=from_now(-1)))
    session.commit()
    assert taken("w") == job


def test_the_place_counts_only_who_competes_for_the_same_workers(session: Session) -> None:
    ours, theirs = make_jobs(session), make_jobs(session, name="theirs")
    large = [ours.make() for _ in range(3)] + [theirs.make()]
    for job in large:
        need(session, job, device=60, memory=500)
    small = ours.make()
    need(session, small, device=10)
    register(session, small=gpu(24))
    assert place_of(session, small).ahead == 0  # type: ignore[union-attr]
    assert not place_of(session, large[0]).held  # type: ignore[union-attr]
    register(session, large=gpu(80))
    assert place_of(session, small).ahead == 4, "the large worker takes those before it"  # type: ignore[union-attr]
    assert place_of(session, large[2]).held  # type: ignore[union-attr]


def test_a_worker_that_was_not_seen_for_a_lease_is_gone(session: Session) -> None:
    job = make_jobs(session).make()
    need(session, job, device=60, memory=500)
    register(session, small=gpu(24), large=gpu(80))
    assert place_of(session, job).held  # type: ignore[union-attr]
    session.execute(update(Worker).where(Worker.name == "large").values(seen_at=from_now(-76)))
    session.commit()
    assert not place_of(session, job).held  # type: ignore[union-attr]
    assert registry.beat(session, "large")
    session.commit()
    assert place_of(session, job).held  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(3))
def test_with_one_worker_places_are_the_order_of_its_claims(session: Session, seed: int) -> None:
    random.seed(seed)
    makers = [make_jobs(session, name=name) for name in ("a", "b", "c")]
    jobs = [random.choice(makers).make(priority=random.randrange(3)) for _ in range(12)]
    for job in jobs:
        need(session, job, device=random.choice((0, 10, 60)))
    register(session, one=gpu(24))
    places = {job: place_of(session, job) for job in jobs}
    held = {job: place.ahead for job, place in places.items() if place is not None and place.held}
    order = [taken("one") for _ in held]
    assert taken("one") is None
    assert order == sorted(held, key=lambda job: held[job])
    assert sorted(held.values()) == list(range(len(held)))


def test_a_row_is_renewed_left_and_forgotten(session: Session) -> None:
    assert not registry.beat(session, "w")
    register(session, w=gpu(24), v=cpu(4), u=gpu(24))
    assert [(kind.machine.device, kind.workers) for kind in registry.kinds(session)] == [("cuda", 2), ("cpu", 1)]
    register(session, w=cpu(4))
    assert [(kind.machine, kind.workers) for kind in registry.kinds(session)] == [(gpu(24), 1), (cpu(4), 2)]
    registry.leave(session, "u")
    session.execute(update(Worker).where(Worker.name == "v").values(seen_at=from_now(-100)))
    assert [kind.workers for kind in registry.kinds(session)] == [1]
    assert registry.forget(session) == 0
    session.execute(update(Worker).where(Worker.name == "v").values(seen_at=from_now(-3601)))
    assert registry.forget(session) == 1


def bells(session: Session) -> list[str]:
    """What is about to be said to the queue, which is then forgotten."""
    found = [row.hint for row in session.query(OutboxMessage).order_by(OutboxMessage.id)]
    session.query(OutboxMessage).delete()
    session.commit()
    return found


def test_a_bell_that_the_wrong_worker_got_is_handed_on_to_an_idle_one_that_holds_the_job(session: Session) -> None:
    jobs = make_jobs(session)
    large, other = jobs.make(), jobs.make()
    for job in (large, other):
        need(session, job, memory=500, device=60)
    register(session, small=gpu(24))
    assert (taken("small"), bells(session)) == (None, []), "nobody is there to hear it"
    register(session, large=gpu(80))
    assert taken("small") is None
    (rung,) = bells(session)
    assert rung in (large, other)
    assert taken("large") is not None
    assert (taken("small"), bells(session)) == (None, []), "it is busy, and will ask by itself"
    assert taken("large") is not None
    assert (taken("large"), bells(session)) == (None, [])


def test_no_bell_is_rung_for_a_worker_whose_device_is_sick(session: Session) -> None:
    need(session, make_jobs(session).make(), memory=500, device=60)
    register(session, small=gpu(24), large=gpu(80))
    for health, rung in (("sick", 0), ("ready", 1)):
        devices.note_health(session, "large", "cuda:0", "GPU-x", health, "")
        session.commit()
        assert taken("small") is None
        assert len(bells(session)) == rung


def test_it_is_handed_on_once_at_a_time(session: Session) -> None:
    need(session, make_jobs(session).make(), memory=500, device=60)
    register(session, small=gpu(24), large=gpu(80))
    assert (taken("small"), taken("small")) == (None, None)
    assert len(bells(session)) == 1


def test_a_worker_that_comes_is_told_of_what_it_holds(session: Session) -> None:
    job = make_jobs(session).make()
    need(session, job, memory=500, device=60)
    register(session, small=gpu(24), large=gpu(80))
    for name, rung in (("small", []), ("large", [job])):
        ring_for(session, name, harness=False)
        session.commit()
        assert bells(session) == rung


def test_a_job_that_may_be_too_large_is_estimated_first_and_holds_nobody_up(session: Session) -> None:
    ours, theirs = make_jobs(session), make_jobs(session, name="theirs")
    doubtful, small = ours.make(priority=9), theirs.make()
    session.get_one(Model, ours.model).bytes = 7 * GIB
    session.get_one(Model, theirs.model).bytes = 6 * GIB
    session.commit()
    register(session, one=gpu(24))
    assert taken("one") == small
    assert taken("one") is None
    task = session.query(Task).one()
    assert (task.kind, task.subject_id, task.project_id) == ("estimate", doubtful, ours.project)
    assert session.get_one(Job, doubtful, populate_existing=True).estimate_due_at is not None
    bells(session)
    sizing.settle(
        session, session.get_one(Job, doubtful), Needs(memory_bytes=9e9, host_bytes=9e9, device_bytes=9e9)
    )
    session.commit()
    assert bells(session) == [doubtful]
    assert taken("one") == doubtful
    assert session.query(Task).count() == 1


def test_one_claim_asks_for_few_estimates(session: Session) -> None:
    ours = make_jobs(session)
    for _ in range(MOST_ASKED + 3):
        ours.make()
    session.get_one(Model, ours.model).bytes = 7 * GIB
    session.commit()
    register(session, one=gpu(24))
    assert taken("one") is None
    assert session.query(Task).count() == MOST_ASKED
    assert taken("one") is None
    assert session.query(Task).count() == MOST_ASKED + 3


def test_what_cannot_be_estimated_goes_to_whoever_takes_it(session: Session) -> None:
    jobs = make_jobs(session)
    job = jobs.make()
    session.get_one(Model, jobs.model).bytes = 100 * GIB
    session.commit()
    register(session, one=cpu(8))
    assert taken("unknown") == job, "nothing is known of this worker"
    again = jobs.make()
    assert taken("one") is None
    sizing.settle(session, session.get_one(Job, again), None)
    session.commit()
    assert taken("one") == again


def test_a_whole_model_that_is_tuned_takes_a_far_larger_worker_unasked(session: Session) -> None:
    jobs = make_jobs(session)
    session.get_one(Model, jobs.model).bytes = GIB
    method = {"name": "admm", "refine": "model"}
    tuned, plain, again = jobs.make(method=method), jobs.make(), jobs.make(method=method)
    register(session, small=gpu(6), large=gpu(20))
    assert taken("large") == tuned
    assert (taken("small"), taken("small")) == (plain, None)
    assert [(task.kind, task.subject_id) for task in session.query(Task)] == [("estimate", again)]
