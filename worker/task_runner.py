"""The worker's side of the CPU queue: claim, keep the lease, let the task work, write down how it ended."""

import logging
import signal
import threading
from collections.abc import Callable
from typing import Final

from sqlalchemy.orm import Session

from app.delivery.lease import LeaseLost
from app.garbage.sweep import run as sweep_garbage
from app.settings import Settings
from app.storage import open_store
from app.tables.tasks import TaskKind
from app.tasks import service
from app.tasks.service import TaskClaim, TaskLost
from worker import plans
from worker.attempt.claim_loop import claim_when_possible
from worker.attempt.interrupts import Interrupted, Interrupts, transact
from worker.attempt.lease_heartbeat import LeaseHeartbeat
from worker.attempt.scratch import sweep
from worker.intake import runner as intake

log = logging.getLogger(__name__)

GIVE_BACK_SECONDS: Final = 20.0
"""How long a worker that must go waits for the intake to notice."""


def run_tasks(settings: Settings, worker: str) -> int:
    """Run tasks until there is none; how many. Call it in the main thread, which only waits (see `supervisor`)."""
    runner = TaskRunner(settings, worker)
    try:
        runner.thread.start()
        runner.thread.join()
    except (SystemExit, KeyboardInterrupt):
        for number in (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        runner.interrupts.stopping.set()
        if runner.thread.is_alive():
            runner.thread.join(GIVE_BACK_SECONDS)
        raise
    if runner.error is not None:
        raise runner.error
    return runner.count


class TaskRunner:
    """A thread that claims and runs tasks one after another."""

    def __init__(self, settings: Settings, worker: str) -> None:
        self.interrupts = Interrupts()
        self.count = 0
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="runner", daemon=True)
        self._settings = settings
        self._worker = worker

    def _run(self) -> None:
        try:
            sweep(self._settings.work_dir)
            while (claimed := self._claim()) is not None:
                claim, since = claimed
                _Turn(claim, self._settings, self.interrupts.stopping).run(since)
                self.count += 1
        except BaseException as error:
            self.error = error

    def _claim(self) -> tuple[TaskClaim, float] | None:
        seconds = self._settings.lease_seconds
        return claim_when_possible(
            self.interrupts.stopping,
            lambda session: service.claim(session, self._worker, seconds),
            lambda session, claim: service.renew(session, claim.id, claim.token, seconds),
        )


class _Turn:
    """One attempt at one task."""

    def __init__(self, claim: TaskClaim, settings: Settings, stopping: threading.Event) -> None:
        self._claim = claim
        self._settings = settings
        self._situation = Interrupts()
        self._situation.stopping = stopping

    def run(self, since: float) -> None:
        claim, seconds = self._claim, self._settings.lease_seconds
        heartbeat = LeaseHeartbeat(
            lambda session: service.renew(session, claim.id, claim.token, seconds),
            lease_seconds=seconds,
            heartbeat_seconds=self._settings.heartbeat_seconds,
            since=since,
            on_lost=self._situation.lost.set,
        )
        try:
            with heartbeat:
                write = self._work()
                heartbeat.let_go()
                transact(self._situation, self._guard, write)
        except (TaskLost, LeaseLost):
            log.warning("%s: the lease is lost", claim.id)

    def _work(self) -> Callable[[Session], None]:
        """Do it, and say how it is to be written down."""
        claim = self._claim
        log.info("%s: %s of %s begins", claim.id, claim.kind, claim.subject_id)
        try:
            if claim.kind == TaskKind.plan:
                plans.run(claim.subject_id, self._guard, self._situation.check, self._settings)
            elif claim.kind == TaskKind.garbage:
                store = open_store(self._settings)
                sweep_garbage(claim.subject_id, self._situation.check, self._settings, store)
            else:
                intake.run(claim.kind, claim.subject_id, self._guard, self._situation.check, self._settings)
        except (TaskLost, LeaseLost):
            raise
        except Interrupted:
            if self._situation.lost.is_set():
                raise LeaseLost from None
            return lambda session: service.give_back(session, claim)
        except plans.TooEarly:
            return lambda session: service.give_back(session, claim, plans.LOOK_AGAIN_SECONDS)
        except Exception:
            log.exception("%s: %s failed", claim.id, claim.kind)
            return lambda session: service.retry(session, claim, self._settings.max_attempts)
        return lambda session: service.finish(session, claim)

    def _guard(self, session: Session) -> None:
        service.guard(session, self._claim.id, self._claim.token)
