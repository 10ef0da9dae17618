"""Which task is next: fair between projects, few intakes of one at once, and nothing for what was deleted."""

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.quotas import service as quotas
from app.quotas.catalogue import Quota
from app.tables.accounts import ProjectService
from app.tables.outbox import OutboxMessage
from app.tables.tasks import Task, TaskKind
from app.tasks import service
from app.tasks.service import TaskClaim, TaskLost
from tests.jobs import make_model, make_project


def ask(session: Session, project: str, kind: TaskKind = TaskKind.model_intake) -> str:
    """The id of a new task, for a model of its own."""
    subject = make_model(session, project, state="pending")
    id = service.submit(session, project, kind, subject).id
    session.commit()
    return id


def take(*kinds: TaskKind) -> TaskClaim | None:
    with transaction() as session:
        return service.claim(session, "w", 60, kinds or tuple(TaskKind))


def taken(*kinds: TaskKind) -> str | None:
    found = take(*kinds)
    return found and found.id


def end(claim: TaskClaim) -> None:
    with transaction() as session:
        service.finish(session, claim)


def pass_time(seconds: float) -> None:
    with transaction() as session:
        session.execute(
            text("UPDATE tasks SET started_at = started_at - make_interval(secs => :s)"), {"s": seconds}
        )


def test_one_intake_goes_next_after_a_queue_of_three_of_another_project(session: Session) -> None:
    many, one = make_project(session, "many"), make_project(session, "one")
    first, second, third = (ask(session, many) for _ in range(3))
    running = take()
    assert running is not None
    assert running.id == first
    pass_time(100)
    end(running)
    only = ask(session, one)
    order = []
    while (found := take()) is not None:
        order.append(found.id)
        end(found)
    assert order == [only, second, third]


def test_a_project_takes_in_one_at_once_and_does_not_block_others(session: Session) -> None:
    ours, theirs = make_project(session, "ours"), make_project(session, "theirs")
    first, second, plan = ask(session, ours), ask(session, ours), ask(session, ours, TaskKind.plan)
    other = ask(session, theirs)
    running = take()
    assert running is not None
    assert running.id == first
    assert {taken(), taken()} == {other, plan}
    assert taken() is None
    session.execute(text("DELETE FROM outbox"))
    session.commit()
    end(running)
    assert second in session.scalars(select(OutboxMessage.hint)), "idle workers are told"
    session.commit()
    assert taken() == second


def test_an_operator_lets_a_project_take_in_more(session: Session) -> None:
    project = make_project(session)
    quotas.change(session, project, None, {Quota.running_intakes: 2})
    ids = {ask(session, project) for _ in range(3)}
    found = {taken(), taken()}
    assert found < ids
    assert taken() is None


def test_a_worker_for_plans_takes_nothing_else(session: Session) -> None:
    project = make_project(session)
    ask(session, project)
    plan = ask(session, project, TaskKind.plan)
    assert taken(TaskKind.plan) == plan
    assert taken(TaskKind.plan) is None


def test_a_plan_is_told_of_in_its_own_queue_too(session: Session) -> None:
    project = make_project(session)
    ask(session, project)
    plan = ask(session, project, TaskKind.plan)
    told = session.execute(select(OutboxMessage.queue).where(OutboxMessage.hint == plan)).scalars().all()
    assert sorted(told) == ["cpu", "plan"]
    session.execute(text("DELETE FROM outbox"))
    service.repository.notify_again(session, 0)
    queues = session.execute(select(OutboxMessage.queue, OutboxMessage.hint)).all()
    assert sorted(queue for queue, hint in queues if hint == plan) == ["cpu", "plan"]
    assert sorted(queue for queue, hint in queues if hint != plan) == ["cpu"]


def test_the_houses_own_work_goes_first_and_a_projects_sweep_in_its_turn(session: Session) -> None:
    ours, theirs = make_project(session, "ours"), make_project(session, "theirs")
    ask(session, ours)
    running = take()
    assert running is not None
    pass_time(1000)
    end(running)
    service.order_sweep(session, "job_x", ours)
    session.commit()
    other = ask(session, theirs)
    service.order_sweep(session, service.WHOLE_STORE)
    session.commit()
    order = [take() for _ in range(3)]
    assert [each and (each.subject_id if each.kind == TaskKind.garbage else each.id) for each in order] == [
        service.WHOLE_STORE,
        other,
        "job_x",
    ]


@pytest.mark.parametrize("how", ["finish", "retry", "give_back", "drop"])
def test_every_end_is_charged(session: Session, how: str) -> None:
    project = make_project(session)
    ask(session, project)
    claim = take()
    assert claim is not None
    pass_time(500)
    with transaction() as other:
        if how == "drop":
            service.drop(other, claim.subject_id)
        elif how == "retry":
            service.retry(other, claim, 3)
        else:
            getattr(service, how)(other, claim)
    row = session.get_one(ProjectService, (project, "cpu"))
    assert row.seconds == pytest.approx(500, rel=0.01)


def test_nothing_is_done_any_more_for_what_was_deleted(session: Session) -> None:
    project = make_project(session)
    ask(session, project)
    running = take()
    assert running is not None
    with transaction() as other:
        service.drop(other, running.subject_id)
    assert session.scalars(select(Task)).all() == []
    with pytest.raises(TaskLost), transaction() as other:
        service.renew(other, running.id, running.token, 60)


def test_neither_years_nor_large_limits_stop_the_claims(session: Session) -> None:
    project = make_project(session)
    quotas.change(session, project, 0.001, {Quota.running_intakes: 2**53})
    session.add(ProjectService(project_id=project, queue="cpu", seconds=60))
    session.flush()
    session.execute(text("UPDATE project_service SET at = now() - interval '200 years'"))
    first, second = ask(session, project), ask(session, project)
    for id in (first, second):
        claimed = take()
        assert claimed is not None
        assert claimed.id == id
        end(claimed)
