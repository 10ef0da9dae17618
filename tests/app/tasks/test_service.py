"""Tasks of the CPU queue are claimed, leased and fenced like jobs."""

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.db.engine import transaction
from app.tables.models import Model
from app.tables.outbox import OutboxMessage
from app.tables.tasks import Task, TaskKind, TaskState
from app.tasks import service
from app.tasks.service import TaskClaim, TaskLost
from tests.jobs import JobMaker, make_dataset, make_model, make_project


@pytest.fixture
def model(session: Session) -> str:
    """A pending model with its task queued."""
    project = make_project(session)
    model = make_model(session, project, state="pending")
    service.submit(session, project, TaskKind.model_intake, model)
    session.commit()
    return model


def take() -> TaskClaim | None:
    with transaction() as session:
        return service.claim(session, "w", 60)


def only_task(session: Session) -> Task:
    session.expire_all()
    return session.query(Task).one()


def test_one_worker_gets_it(session: Session, model: str) -> None:
    claim = take()
    assert claim is not None
    assert (claim.kind, claim.subject_id, claim.attempt) == ("model_intake", model, 1)
    assert take() is None


def test_a_finished_task_wakes_the_jobs_that_waited(session: Session, model: str) -> None:
    project = session.get_one(Model, model).project_id
    job = JobMaker(session, project, model, [make_dataset(session, project)]).make()
    claim = take()
    assert claim is not None
    with transaction() as other:
        service.finish(other, claim)
    assert only_task(session).state == TaskState.succeeded
    assert session.query(OutboxMessage).filter_by(hint=job, queue="gpu").count() == 1


def test_a_lost_task_is_queued_again_and_the_old_worker_shut_out(session: Session, model: str) -> None:
    claim = take()
    assert claim is not None
    session.execute(update(Task).values(lease_expires_at=from_now(-1)))
    session.commit()
    with transaction() as other:
        assert service.reap(other, 0, 3) == [claim.id]
    for write in (service.finish, service.give_back, lambda s, c: service.renew(s, c.id, c.token, 9)):
        with pytest.raises(TaskLost), transaction() as other:
            write(other, claim)
    assert take() is not None


def test_the_last_failure_fails_the_subject_too(session: Session, model: str) -> None:
    claim = take()
    assert claim is not None
    with transaction() as other:
        service.retry(other, claim, budget=1)
    task = only_task(session)
    assert task.error is not None
    assert (task.state, task.error["code"]) == (TaskState.failed, "internal")
    row = session.get_one(Model, model)
    assert (row.state, row.error) == ("failed", task.error)


def test_giving_back_costs_nothing(session: Session, model: str) -> None:
    claim = take()
    assert claim is not None
    with transaction() as other:
        service.give_back(other, claim)
    assert only_task(session).attempts == 0
    assert session.query(OutboxMessage).filter_by(hint=claim.id).count() == 2


@pytest.mark.parametrize("again", ["give_back", "retry", "reap"])
def test_a_sweep_that_another_one_waits_behind_ends_instead_of_going_back(session: Session, again: str) -> None:
    order_sweep()
    claim = take()
    assert claim is not None
    order_sweep()
    with transaction() as other:
        if again == "give_back":
            service.give_back(other, claim)
        elif again == "retry":
            service.retry(other, claim, budget=3)
        else:
            other.execute(update(Task).where(Task.id == claim.id).values(lease_expires_at=from_now(-1)))
            assert service.reap(other, 0, 3) == [claim.id]
    session.expire_all()
    assert session.get_one(Task, claim.id).state == TaskState.succeeded
    waiting = take()
    assert waiting is not None
    assert waiting.subject_id == claim.subject_id


def order_sweep() -> None:
    with transaction() as session:
        service.order_sweep(session, service.WHOLE_STORE)


def test_a_task_that_cannot_be_reaped_does_not_hold_up_the_others(session: Session, model: str) -> None:
    stuck = take()
    assert stuck is not None
    order_sweep()
    lost = take()
    assert lost is not None
    session.execute(text(f"ALTER TABLE tasks ADD CHECK (id <> '{stuck.id}' OR state = 'running')"))
    session.execute(update(Task).values(lease_expires_at=from_now(-1)))
    session.commit()
    with transaction() as other:
        assert service.reap(other, 0, 3) == [lost.id]
    assert session.get_one(Task, stuck.id).state == TaskState.running
