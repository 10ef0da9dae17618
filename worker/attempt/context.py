"""What all steps of an attempt work with, and how it ends."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from sqlalchemy.orm import Session

from app.delivery import endings
from app.delivery.claim import Claim
from app.delivery.lease import Lease, guard
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.states import State
from worker.attempt.device_gate import DeviceGate
from worker.attempt.interrupts import Interrupts, transact
from worker.attempt.lease_heartbeat import LeaseHeartbeat

Result = TypeVar("Result")


class Ending(NamedTuple):
    """state: in which the job was left. sound: whether the worker can work; True: a block committed, or the job
    done; False: lost without one; None: it cannot be told."""

    state: State
    sound: bool | None


@dataclass(frozen=True)
class AttemptContext:
    claim: Claim
    settings: Settings
    store: ObjectStore
    interrupts: Interrupts
    heartbeat: LeaseHeartbeat
    gate: DeviceGate

    @property
    def lease(self) -> Lease:
        return self.claim.lease

    def download(self, key: str, path: Path) -> None:
        """Write an object's bytes to a path; every piece looks at the interrupts."""
        self.store.download(key, path, self.interrupts.check)

    def commit(self, write: Callable[[Session], Result]) -> Result:
        """Run a function in a transaction that the lease guards."""
        return transact(self.interrupts, lambda session: guard(session, self.lease), write)

    def end(self, write: Callable[[Session], State]) -> Ending:
        """The same for one that gives up the lease."""
        self.heartbeat.let_go()

        def write_and_look(session: Session) -> tuple[State, bool]:
            return write(session), endings.has_progressed(session, self.lease.job_id, self.lease.attempt)

        state, progressed = self.commit(write_and_look)
        self.heartbeat.stop()
        return Ending(state, True if progressed or state is State.succeeded else None)
