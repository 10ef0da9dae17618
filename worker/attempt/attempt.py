"""One attempt at one job, told from the claim to its end."""

import errno
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from sqlalchemy.orm import Session

from app.delivery import checkpoint as checkpoints
from app.delivery import commits, endings, input_digests
from app.delivery.checkpoint import Checkpoint
from app.delivery.claim import Claim
from app.delivery.commits import CommitsLost
from app.delivery.endings import Failure
from app.delivery.lease import LeaseLost, OwnerRequests, guard, renew
from app.delivery.object_keys import attempt_folder
from app.settings import Settings
from app.storage import ObjectStore, StoreError, StoreFull
from app.tables.jobs import Outcome
from app.tables.states import ENDINGS, LOSSES, Reason, State
from worker.attempt.engine_messages import EngineMessages
from worker.attempt.engine_process import EngineProcess
from worker.attempt.interrupts import AttemptFailed, Interrupted, Interrupts, transact
from worker.attempt.job_log import JobLog
from worker.attempt.lease_heartbeat import LeaseHeartbeat
from worker.attempt.oom import oom_kills
from worker.attempt.redaction import Redactor
from worker.attempt.scratch import Scratch
from worker.attempt.staging import Staging, make_request
from worker.attempt.stall_watchdog import StallWatchdog
from worker.attempt.uploads import Uploads
from worker.engine_format import ENGINE_FORMAT

log = logging.getLogger(__name__)

STOP_GRACE_SECONDS: Final = 5.0
"""What an engine gets to stop by itself when its job is cancelled or paused."""
END_GRACE_SECONDS: Final = 10.0
"""What an engine gets to exit after its last message."""
STORE_FULL: Final = "The object store has no space left."


class Spawn(Protocol):
    """Runs a function in the main thread and gives its result. Raises Interrupted."""

    def __call__(self, start: Callable[[], EngineProcess], /) -> EngineProcess: ...


class Attempt:
    """Runs in the runner's thread; `shut_down` may be called from any."""

    def __init__(
        self,
        claim: Claim,
        since: float,
        settings: Settings,
        store: ObjectStore,
        spawn: Spawn,
        command: Sequence[str],
    ) -> None:
        """since: `time.monotonic()` before the claim was sent."""
        self.interrupts = Interrupts(settings.store_patience_seconds)
        self.sound: bool | None = None
        """Whether the worker can work. True: a block committed, or the job done; False: lost without one."""
        self._since = since
        self._claim = claim
        self._lease = claim.lease
        self._settings = settings
        self._store = store
        self._spawn = spawn
        self._command = command
        self._engine: EngineProcess | None = None
        self._limit_runtime(claim.runtime_left)
        self._keeper = LeaseHeartbeat(
            lambda session: renew(session, self._lease, settings.lease_seconds),
            lease_seconds=settings.lease_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
            since=since,
            on_lost=self._on_lost,
            on_orders=self._on_orders,
        )

    def run(self) -> None:
        """Until the job has another state, or the lease is lost. Raises nothing but what the database says."""
        log.info("%s: attempt %d begins", self._lease.job_id, self._lease.attempt)
        with self._keeper:
            try:
                state = self._run_to_end()
                log.info("%s: attempt %d left it %s", self._lease.job_id, self._lease.attempt, state)
            except CommitsLost as lost:
                log.error("%s: the database has lost %s: this attempt is over", self._lease.job_id, lost)
            except LeaseLost:
                log.warning("%s: the lease of attempt %d is lost", self._lease.job_id, self._lease.attempt)

    def shut_down(self) -> None:
        """The worker must go: kill the engine; the runner gives the job back."""
        self.interrupts.stopping.set()
        self._kill_engine()

    def _run_to_end(self) -> State:
        try:
            with Scratch(self._settings.work_dir, f"{self._lease.job_id}-{self._lease.fence}") as scratch:
                outcome = self._perform(scratch)
            if isinstance(outcome, State):
                return outcome
            failure = outcome
        except Interrupted:
            return self._end_as_ordered()
        except AttemptFailed as error:
            failure = error.failure
        except StoreError as error:
            log.error("%s: %s", self._lease.job_id, error)
            failure = Failure(Reason.store_failed, STORE_FULL if isinstance(error, StoreFull) else "")
        except OSError as error:
            log.exception("%s: the worker's own files failed", self._lease.job_id)
            failure = _disk_trouble(error)
        except (KeyError, TypeError, ValueError):
            log.exception("%s: the job could not be prepared", self._lease.job_id)
            failure = Failure(Reason.engine_failed, "The worker could not prepare the job.")
        return self._fail(failure)

    def _perform(self, scratch: Scratch) -> State | Failure:
        """Stage, start the engine, pump; published or the reason why not."""
        checkpoint, next_line = self._look_back()
        staging = Staging(self._settings, self._store, self.interrupts, scratch)
        staging.bring(self._claim, checkpoint)
        request = make_request(self._claim, checkpoint, scratch, self._settings)
        killed_before = oom_kills()
        self.interrupts.check()
        start = lambda: EngineProcess(scratch.workspace, request["threads"], self._command)  # noqa: E731
        engine = self._engine = self._spawn(start)
        try:
            outcome = self._pump(engine, request, scratch, next_line, checkpoint).run()
        except Interrupted:
            if self.interrupts.cancelled.is_set() or self.interrupts.paused.is_set():
                engine.stop(STOP_GRACE_SECONDS)
            raise
        except BaseException:
            engine.kill()
            raise
        finally:
            code = engine.finish(END_GRACE_SECONDS if not self.interrupts.is_interrupted() else 0)
        # An engine that we killed ourselves looks like one that died.
        if not isinstance(outcome, State):
            self.interrupts.check()
        return outcome or self._judge(code, oom_kills() > killed_before)

    def _look_back(self) -> tuple[Checkpoint, int]:
        """What the attempts before have left, unless another format of checkpoints made it useless."""

        texts = {id: text.file.sha256 for id, text in self._claim.datasets.items()}
        base = self._claim.base
        parent = base.manifest_digest if base is not None else None
        inputs = input_digests.make(self._claim.spec, self._claim.model_digest, texts, parent)

        def read(session: Session) -> tuple[Checkpoint, int]:
            if changed := input_digests.settle(session, self._lease, inputs):
                what = ", ".join(each.what for each in changed)
                text = f"Not what the checkpoint was made from: {what}. Submit a new job instead."
                raise AttemptFailed(Failure(Reason.inputs_changed, text, field=changed[0].pointer))
            formats = checkpoints.engine_formats(session, self._lease.job_id)
            if formats - {ENGINE_FORMAT}:
                reason = f"checkpoints of engine format {min(formats)}, this is {ENGINE_FORMAT}"
                checkpoints.discard(session, self._lease, reason)
                input_digests.settle(session, self._lease, inputs)
            next_line = commits.next_log_seq(session, self._lease.job_id)
            return checkpoints.load(session, self._lease.job_id), next_line

        checkpoint: Checkpoint
        checkpoint, next_line = self._commit(read)
        return checkpoint, next_line

    def _pump(
        self,
        engine: EngineProcess,
        request: dict[str, Any],
        scratch: Scratch,
        next_line: int,
        checkpoint: Checkpoint,
    ) -> EngineMessages:
        redact = Redactor(
            {
                "<workspace>": scratch.workspace,
                "<model>": scratch.model,
                "<data>": scratch.data,
                "<work>": self._settings.work_dir,
            }
        )
        book = JobLog(next_line, self._settings.log_lines, redact)
        engine.listen(lambda line: book.add("info", line))
        engine.say(request)
        folder = attempt_folder(self._claim.root, self._lease.job_id, self._lease.fence)
        uploads = Uploads(self._store, folder, scratch.workspace, self.interrupts)
        patience = StallWatchdog(self._settings.stall_seconds)
        last_stage = checkpoint.files_of.get(len(self._claim.spec["domains"]) - 1, ())
        return EngineMessages(
            *(self._claim, engine, uploads, book, self.interrupts, patience),
            *(self._commit, self._end, redact, last_stage),
        )

    def _judge(self, code: int, out_of_memory: bool) -> Failure:
        """An engine that ended without a word."""
        log.error("%s: the engine ended with %d and no report", self._lease.job_id, code)
        if code >= 0:
            return Failure(Reason.engine_failed, f"The engine ended with exit code {code}.")
        return Failure(Reason.out_of_memory if out_of_memory else Reason.engine_killed)

    def _commit(self, write: Callable[[Session], Any]) -> Any:
        return transact(self.interrupts, lambda session: guard(session, self._lease), write)

    def _end(self, write: Callable[[Session], Any]) -> Any:
        """A commit that gives up the lease."""
        self._keeper.let_go()

        def write_and_look(session: Session) -> tuple[Any, bool]:
            return write(session), endings.has_progressed(session, self._lease.job_id, self._lease.attempt)

        result, progressed = self._commit(write_and_look)
        self._keeper.stop()
        self.sound = True if progressed or result is State.succeeded else None
        return result

    def _end_as_ordered(self) -> State:
        if self.interrupts.lost.is_set():
            raise LeaseLost
        if self.interrupts.cancelled.is_set():
            return self._stop(Outcome.cancelled)
        if self.interrupts.is_overtime():
            return self._fail(Failure(Reason.max_runtime))
        if self.interrupts.stalled.is_set():
            return self._fail(Failure(Reason.engine_stalled))
        if self.interrupts.stopping.is_set():
            return self._fail(Failure(Reason.worker_stopped))
        return self._stop(Outcome.paused)

    def _stop(self, outcome: Outcome) -> State:
        state: State = self._end(lambda session: endings.stop(session, self._lease, outcome))
        return state

    def _fail(self, failure: Failure) -> State:
        budgets = endings.budgets(self._settings)
        log.warning("%s: %s", self._lease.job_id, failure.message or ENDINGS[failure.reason].message)
        state: State = self._end(lambda session: endings.fail(session, self._lease, failure, budgets))
        if not self.sound and failure.reason in LOSSES:
            self.sound = False
        return state

    def _on_orders(self, requests: OwnerRequests) -> None:
        if requests.cancel:
            self.interrupts.cancelled.set()
        self.interrupts.order_pause(requests.pause, self._settings.pause_seconds)
        self._limit_runtime(requests.runtime_left)

    def _limit_runtime(self, left: float | None) -> None:
        self.interrupts.runtime_ends = math.inf if left is None else self._since + left

    def _on_lost(self) -> None:
        self.interrupts.lost.set()
        self._kill_engine()

    def _kill_engine(self) -> None:
        if self._engine is not None:
            self._engine.kill()


def _disk_trouble(error: OSError) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(Reason.disk_full)
    return Failure(Reason.store_failed, f"The worker could not use its disk ({type(error).__name__}).")
