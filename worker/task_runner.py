"""The worker's side of the CPU queue: claim, keep the lease, let the task work, write down how it ended."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy.orm import Session
from structlog.contextvars import bound_contextvars

from app.delivery.lease import LeaseLost
from app.garbage.sweep import run as sweep_garbage
from app.kit.origin import on_behalf
from app.settings import Settings
from app.storage import open_store
from app.tables.tasks import PLANNING, TaskKind
from app.tasks import service
from app.tasks.service import TaskClaim, TaskLost
from worker import plans, publication
from worker.attempt.claim_loop import claim_when_possible
from worker.attempt.disk_room import has_room
from worker.attempt.interrupts import Interrupted, Interrupts, transact
from worker.attempt.lease_heartbeat import LeaseHeartbeat
from worker.attempt.scratch import sweep
from worker.attempt.supervise import supervise
from worker.intake import runner as intake

log = logging.getLogger(__name__)

_WITHOUT_ROOM: Final = (TaskKind.garbage, *PLANNING)


def run_tasks(settings: Settings, worker: str, kinds: Sequence[TaskKind] = tuple(TaskKind)) -> int:
    """Run tasks of these kinds until there is none; how many. Call it in the main thread, which only waits."""
    stopping, seconds = threading.Event(), settings.lease_seconds

    def work() -> int:
        sweep(settings.work_dir)
        count = 0
        while claimed := claim_when_possible(
            stopping,
            lambda session: service.claim(session, worker, seconds, _possible(settings, kinds)),
            lambda session, claim: service.renew(session, claim.id, claim.token, seconds),
        ):
            task = claimed[0]
            names: dict[str, str | int] = {"task_id": task.id, "subject": task.subject_id, "attempt": task.attempt}
            with on_behalf(task.origin, task.kind, names):
                _run_task(*claimed, settings, Interrupts(stopping=stopping))
            count += 1
        return count

    with bound_contextvars(worker=worker):
        return supervise(work, stopping)


def _possible(settings: Settings, kinds: Sequence[TaskKind]) -> Sequence[TaskKind]:
    """On a disk that is nearly full nothing is taken in; what makes room, or needs none, goes on."""
    return kinds if has_room(settings) else [kind for kind in kinds if kind in _WITHOUT_ROOM]


def _run_task(claim: TaskClaim, since: float, settings: Settings, interrupts: Interrupts) -> None:
    """One attempt at one task. since: `time.monotonic()` before the claim was sent."""

    def guard(session: Session) -> None:
        service.guard(session, claim.id, claim.token)

    heartbeat = LeaseHeartbeat(
        lambda session: service.renew(session, claim.id, claim.token, settings.lease_seconds),
        lease_seconds=settings.lease_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        since=since,
        on_lost=interrupts.lose,
    )
    try:
        with heartbeat:
            write = _perform(claim, guard, settings, interrupts)
            heartbeat.let_go()
            transact(interrupts, guard, write)
    except (TaskLost, LeaseLost):
        log.warning("the lease is lost")


def _perform(
    claim: TaskClaim, guard: Callable[[Session], None], settings: Settings, interrupts: Interrupts
) -> Callable[[Session], None]:
    """Do it, and say how it is to be written down."""
    log.info("%s of %s begins", claim.kind, claim.subject_id)
    try:
        if claim.kind == TaskKind.plan:
            plans.run(claim.subject_id, guard, interrupts.check, settings)
        elif claim.kind == TaskKind.estimate:
            plans.estimate(claim.subject_id, guard, interrupts.check, settings)
        elif claim.kind == TaskKind.publication:
            publication.run(claim.subject_id, guard, interrupts.check, open_store(settings))
        elif claim.kind == TaskKind.garbage:
            sweep_garbage(claim.subject_id, interrupts.check, settings, open_store(settings))
        else:
            intake.run(claim.kind, claim.subject_id, guard, interrupts.check, settings)
    except (TaskLost, LeaseLost):
        raise
    except Interrupted:
        if interrupts.lost.is_set():
            raise LeaseLost from None
        return lambda session: service.give_back(session, claim)
    except plans.TooEarly:
        return lambda session: service.give_back(session, claim, plans.LOOK_AGAIN_SECONDS)
    except Exception:
        log.exception("%s failed", claim.kind)
        return lambda session: service.retry(session, claim, settings.max_attempts)
    return lambda session: service.finish(session, claim)
