"""One attempt at one job, told from the claim to its end."""

import errno
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from sqlalchemy.orm import Session

from app.counts import LEASES_LOST, count
from app.db.engine import transaction
from app.delivery import checkpoint as checkpoints
from app.delivery import commits, endings, input_digests
from app.delivery.checkpoint import Checkpoint
from app.delivery.claim import Claim
from app.delivery.commits import CommitsLost
from app.delivery.endings import Failure
from app.delivery.lease import LeaseLost, OwnerRequests, renew
from app.kit.origin import on_behalf
from app.kit.tracing import named, note_past, span
from app.settings import Settings
from app.storage import ObjectStore, StoreError, StoreFull
from app.tables.jobs import Outcome
from app.tables.states import ENDINGS, LOSSES, Reason
from secateur.packed import PackError
from worker.attempt.context import AttemptContext, Ending
from worker.attempt.device_gate import DeviceGate
from worker.attempt.engine_messages import hear_engine
from worker.attempt.engine_process import EngineProcess, confinement, engine_limits
from worker.attempt.interrupts import AttemptFailed, Interrupted, Interrupts
from worker.attempt.lease_heartbeat import LeaseHeartbeat
from worker.attempt.oom import oom_kills
from worker.attempt.scratch import Scratch
from worker.attempt.staging import bring, make_request
from worker.engine_format import ENGINE_FORMAT

log = logging.getLogger(__name__)

STOP_GRACE_SECONDS: Final = 5.0
"""What an engine gets to stop by itself when its job is cancelled or paused."""
END_GRACE_SECONDS: Final = 10.0
"""What an engine gets to exit after its last message."""
STORE_FULL: Final = "The object store has no space left."


def run_attempt(
    claim: Claim,
    since: float,
    settings: Settings,
    store: ObjectStore,
    interrupts: Interrupts,
    command: Sequence[str],
    gate: DeviceGate,
) -> bool | None:
    """Work until the job has another state, or the lease is lost. Raises nothing but what the database says.

    since: `time.monotonic()` before the claim was sent. Returns whether the worker can work, see `Ending.sound`.
    """
    lease = claim.lease
    began = time.time_ns() - int(1e9 * (time.monotonic() - since))
    names: dict[str, str | int] = {"job_id": lease.job_id, "attempt": lease.attempt, "fence": lease.fence}
    names["project"] = claim.project_id
    with on_behalf(claim.origin, "attempt", names, started=began) as current:
        note_past("claim", began)
        ending = _hold(claim, since, settings, store, interrupts, command, gate)
        if ending is not None:
            current.set_attributes(named({"state": ending.state}))
    return ending.sound if ending is not None else None


def _hold(
    claim: Claim,
    since: float,
    settings: Settings,
    store: ObjectStore,
    interrupts: Interrupts,
    command: Sequence[str],
    gate: DeviceGate,
) -> Ending | None:
    """With the lease kept; None when it was lost."""
    lease = claim.lease

    def heed(requests: OwnerRequests) -> None:
        if requests.cancel:
            interrupts.cancelled.set()
        interrupts.order_pause(requests.pause, settings.pause_seconds)
        interrupts.limit_runtime(since, requests.runtime_left)

    interrupts.limit_runtime(since, claim.runtime_left)
    heartbeat = LeaseHeartbeat(
        lambda session: renew(session, lease, settings.lease_seconds),
        lease_seconds=settings.lease_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        since=since,
        on_lost=interrupts.lose,
        on_orders=heed,
    )
    log.info("the attempt begins")
    with heartbeat:
        try:
            ending = _run_to_end(AttemptContext(claim, settings, store, interrupts, heartbeat, gate), command)
        except CommitsLost as lost:
            log.error("the database has lost %s: this attempt is over", lost)
        except LeaseLost:
            log.warning("the lease is lost")
            _count_loss()
        else:
            log.info("the attempt left the job %s", ending.state)
            return ending
    return None


def _count_loss() -> None:
    """For the metrics; where the database is away, it is told by what the reaper counts."""
    with suppress(Exception), transaction() as session:
        count(session, LEASES_LOST)


def _run_to_end(context: AttemptContext, command: Sequence[str]) -> Ending:
    job, fence = context.lease.job_id, context.lease.fence
    try:
        with Scratch(context.settings.work_dir, f"{job}-{fence}") as scratch:
            found = _perform(context, scratch, command)
    except Interrupted:
        return _end_as_ordered(context)
    except AttemptFailed as error:
        found = error.failure
    except StoreError as error:
        log.error("%s", error)
        found = Failure(Reason.store_failed, STORE_FULL if isinstance(error, StoreFull) else "")
    except OSError as error:
        log.exception("the worker's own files failed")
        found = _disk_trouble(error)
    except (KeyError, TypeError, ValueError, PackError):
        log.exception("the job could not be prepared")
        found = Failure(Reason.engine_failed, "The worker could not prepare the job.")
    return found if isinstance(found, Ending) else _fail(context, found)


def _perform(context: AttemptContext, scratch: Scratch, command: Sequence[str]) -> Ending | Failure:
    """Stage, start the engine, hear it; published, or the reason why not."""
    interrupts = context.interrupts
    checkpoint, next_line = _look_back(context)
    with span("staging"):
        bring(context.claim, checkpoint, scratch, context.settings, context.store, interrupts)
        request = make_request(context.claim, checkpoint, scratch, context.settings, context.gate.name)
        request["seconds_left"] = interrupts.runtime_left()
    interrupts.check()
    with span("engine"):
        return _run_engine(context, scratch, command, request, checkpoint, next_line)


def _run_engine(
    context: AttemptContext,
    scratch: Scratch,
    command: Sequence[str],
    request: dict[str, Any],
    checkpoint: Checkpoint,
    next_line: int,
) -> Ending | Failure:
    interrupts = context.interrupts
    killed_before = oom_kills()
    limits = engine_limits(context.settings)
    confined = confinement(request, scratch.workspace, limits)
    engine = EngineProcess(scratch.workspace, request["threads"], command, confined)
    interrupts.kill = engine.kill
    try:
        engine.say(request)
        found = hear_engine(context, engine, scratch, checkpoint, next_line)
    except Interrupted:
        if interrupts.cancelled.is_set() or interrupts.paused.is_set():
            engine.stop(STOP_GRACE_SECONDS)
        raise
    except BaseException:
        engine.kill()
        raise
    finally:
        code = engine.finish(END_GRACE_SECONDS if not interrupts.is_interrupted() else 0)
    if isinstance(found, Ending):
        return found
    # An engine that we killed ourselves looks like one that died.
    interrupts.check()
    if found is not None:
        return found
    log.error("the engine ended with %d and no report", code)
    if engine.outgrown:
        text = (
            f"The engine took more than the {(limits.memory_bytes or 0) / 1e9:.1f} GB of memory that it may hold."
        )
        return Failure(Reason.out_of_memory, text, details={"limit_bytes": limits.memory_bytes})
    if code >= 0:
        return Failure(Reason.engine_failed, f"The engine ended with exit code {code}.")
    return Failure(Reason.out_of_memory if oom_kills() > killed_before else Reason.engine_killed)


def _look_back(context: AttemptContext) -> tuple[Checkpoint, int]:
    """What the attempts before have left, unless another format of checkpoints made it useless; and the number of
    the log's next line."""
    claim, lease = context.claim, context.lease
    texts = {id: text.file.sha256 for id, text in claim.datasets.items()}
    parent = claim.base.manifest_digest if claim.base is not None else None
    inputs = input_digests.make(claim.spec, claim.model_digest, texts, parent)

    def read(session: Session) -> tuple[Checkpoint, int]:
        if changed := input_digests.settle(session, lease, inputs):
            what = ", ".join(each.what for each in changed)
            text = f"Not what the checkpoint was made from: {what}. Submit a new job instead."
            raise AttemptFailed(Failure(Reason.inputs_changed, text, field=changed[0].pointer))
        formats = checkpoints.engine_formats(session, lease.job_id)
        if formats - {ENGINE_FORMAT}:
            reason = f"checkpoints of engine format {min(formats)}, this is {ENGINE_FORMAT}"
            checkpoints.discard(session, lease, reason)
            input_digests.settle(session, lease, inputs)
        return checkpoints.load(session, lease.job_id), commits.next_log_seq(session, lease.job_id)

    return context.commit(read)


def _end_as_ordered(context: AttemptContext) -> Ending:
    interrupts = context.interrupts
    if interrupts.lost.is_set():
        raise LeaseLost
    if interrupts.cancelled.is_set():
        return context.end(lambda session: endings.stop(session, context.lease, Outcome.cancelled))
    if interrupts.is_overtime():
        return _fail(context, Failure(Reason.max_runtime))
    if interrupts.stalled.is_set():
        return _fail(context, Failure(Reason.engine_stalled))
    if interrupts.stopping.is_set():
        return _fail(context, Failure(Reason.worker_stopped))
    return context.end(lambda session: endings.stop(session, context.lease, Outcome.paused))


def _fail(context: AttemptContext, failure: Failure) -> Ending:
    budgets = endings.budgets(context.settings)
    if not context.interrupts.stopping.is_set():  # then there is no time to look
        failure = context.gate.settle(failure)
    log.warning("%s: %s", failure.reason, failure.message or ENDINGS[failure.reason].message)
    ending = context.end(lambda session: endings.fail(session, context.lease, failure, budgets))
    return ending if ending.sound or failure.reason not in LOSSES else Ending(ending.state, sound=False)


def _disk_trouble(error: OSError) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(Reason.disk_full)
    return Failure(Reason.store_failed, f"The worker could not use its disk: {os.strerror(error.errno or 0)}.")
