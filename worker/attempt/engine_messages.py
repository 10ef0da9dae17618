"""What the engine reports, made durable and acknowledged."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Final, TypeVar

from sqlalchemy.exc import DataError, IntegrityError, NoResultFound, StatementError
from sqlalchemy.orm import Session

from app.delivery import checkpoint as checkpoints
from app.delivery import commits, device_change
from app.delivery.checkpoint import Checkpoint
from app.delivery.claim import Claim
from app.delivery.device_change import Change
from app.delivery.endings import Failure
from app.delivery.object_keys import MODEL, StoredFile, attempt_folder
from app.delivery.publish import make_manifest, publish
from app.history.evaluation import evaluation_of
from app.kit.redaction import redacted
from app.kit.tracing import span
from app.settings import Settings
from app.tables.jobs import Job
from app.tables.states import Reason
from secateur.packed import PackError
from secateur.spec.job import stage_names
from secateur.spec.output import Form
from secateur.spec.records.history import JobWarning
from secateur.spec.records.pipe import (
    BlockResult,
    DeviceMemory,
    Ended,
    Engine,
    Evaluation,
    Failed,
    Hello,
    Message,
    Note,
    Output,
    Progress,
    StageResult,
    TaskBegun,
    TaskResult,
)
from secateur.spec.records.plan import SkippedTensor
from worker.attempt import card
from worker.attempt.context import AttemptContext, Ending
from worker.attempt.device_gate import others_bytes
from worker.attempt.engine_process import EngineProcess
from worker.attempt.interrupts import AttemptFailed
from worker.attempt.job_log import JobLog
from worker.attempt.news import News
from worker.attempt.packing import Packing, base_name, form_of
from worker.attempt.phases import Phases
from worker.attempt.redaction import Redactor
from worker.attempt.scratch import Scratch
from worker.attempt.staging import OPERATORS_FIELDS
from worker.attempt.stall_watchdog import StallWatchdog
from worker.attempt.uploads import Uploads

log = logging.getLogger(__name__)

HEAR_SECONDS: Final = 0.25
NAMED: Final = frozenset({Reason.out_of_memory, Reason.device_unavailable, Reason.disk_full})
"""Failures of the system that the engine tells apart; every other one is `engine_failed`."""
KEPT: Final = (BlockResult, Evaluation, StageResult, TaskResult)
"""Messages after which nothing is lost when the engine stops."""
UNUSABLE: Final = (
    LookupError,
    TypeError,
    ValueError,
    DataError,
    IntegrityError,
    NoResultFound,
    StatementError,
    PackError,
)
Said = TypeVar("Said", Note, JobWarning)


@dataclass(frozen=True)
class _Hearing:
    """What hearing an engine takes."""

    context: AttemptContext
    engine: EngineProcess
    uploads: Uploads
    packing: Packing
    redact: Redactor
    job_log: JobLog
    news: News
    phases: Phases

    @property
    def stages(self) -> list[str]:
        """Their names."""
        return stage_names(self.context.claim.spec)

    def redacted(self, said: Said) -> Said:
        """Free of the worker's paths, like all that an owner reads."""
        clean = {"message": self.redact(said.message), "data": redacted(said.data, self.redact)}
        return said.model_copy(update=clean)


def hear_engine(
    context: AttemptContext, engine: EngineProcess, scratch: Scratch, checkpoint: Checkpoint, next_line: int
) -> Ending | Failure | None:
    """Keep what the engine reports until its output is published; else what it said of its failure, if anything.

    next_line: number of the job's next line of log. Raises Interrupted, and AttemptFailed for what cannot be used.
    """
    hearing = _listen(context, engine, scratch, next_line)
    with hearing.phases:
        return _hear_out(hearing, checkpoint)


def _hear_out(hearing: _Hearing, checkpoint: Checkpoint) -> Ending | Failure | None:
    context, engine = hearing.context, hearing.engine
    # The artifact is made of these, by their local names.
    committed = {file.path: file for file in checkpoint.files}
    watchdog, interrupts = StallWatchdog(context.settings.stall_seconds), context.interrupts
    about: Engine | None = None
    failure: Failure | None = None
    at_work = resting = False
    while True:
        # A pause waits until what the engine has finished is kept.
        resting = resting and interrupts.paused.is_set()
        interrupts.in_block = at_work and not (resting and not engine.has_more())
        interrupts.check()
        with _usable():
            match message := _next(hearing, watchdog):
                case Ended():
                    hearing.news.write()
                    return failure
                case Output():
                    return _publish(hearing, _introduced(about), message, committed)
                case Hello():
                    about = _greet(hearing, message)
                case Failed():
                    failure = _failure(hearing, message)
                case BlockResult():
                    committed |= _keep_block(hearing, _introduced(about), message)
                case None:
                    pass
                case _:
                    _keep(hearing, message)
        at_work = at_work or isinstance(message, Progress)
        if isinstance(message, KEPT):
            resting = interrupts.paused.is_set()
        if message is not None:
            watchdog.listen(message)
        hearing.news.write_when_due()


def _listen(context: AttemptContext, engine: EngineProcess, scratch: Scratch, next_line: int) -> _Hearing:
    settings, lease, claim = context.settings, context.lease, context.claim
    folders = {"<workspace>": scratch.workspace, "<model>": scratch.model, "<data>": scratch.data}
    redact = Redactor({**folders, "<work>": settings.work_dir})
    job_log = JobLog(next_line, settings.log_lines, redact)
    engine.listen(lambda line: job_log.add("info", line))
    folder = attempt_folder(claim.root, lease.job_id, lease.fence)
    uploads = Uploads(context.store, folder, scratch.workspace, context.interrupts)
    return _Hearing(
        context=context,
        engine=engine,
        uploads=uploads,
        packing=Packing(claim, scratch, uploads, context.interrupts, context.download),
        redact=redact,
        job_log=job_log,
        news=News(context, job_log),
        phases=Phases(),
    )


@contextmanager
def _usable() -> Iterator[None]:
    """What cannot be used of a report ends the attempt."""
    try:
        yield
    except UNUSABLE as error:
        log.exception("a report of the engine could not be used")
        text = "The engine reported something that the worker could not use."
        raise AttemptFailed(Failure(Reason.engine_failed, text)) from error


def _next(hearing: _Hearing, watchdog: StallWatchdog) -> Message | Ended | None:
    """The engine's next message, if any; an engine that is silent for too long stalls the attempt."""
    message = hearing.engine.hear(HEAR_SECONDS)
    if message is None and watchdog.is_over():
        log.error("no report of the engine for %.0f s", watchdog.silence())
        hearing.context.interrupts.stalled.set()
    elif message is not None and not isinstance(message, Ended):
        watchdog.hear(message)
        hearing.phases.hear(message)
    return message


def _introduced(about: Engine | None) -> Engine:
    if about is None:
        raise ValueError("no hello came first")
    return about


def _greet(hearing: _Hearing, message: Hello) -> Engine:
    context = hearing.context
    if message.engine.isolation.get("network"):
        warn_of_network()
    note = hearing.redacted(_count_skipped(message.skipped)) if message.skipped else None
    device = message.engine.fingerprint

    def write(session: Session) -> Change | None:
        change = device_change.settle(session, context.lease, device) if device is not None else None
        if change is None or not change.refused:
            commits.write_hello(session, context.lease, message, hearing.stages, note)
        if change is not None:
            data = {"code": "device_changed", "before": change.before, "now": change.now}
            commits.write_note(session, context.lease, Note(level="warning", message=change.message, data=data))
        return change

    change = context.commit(write)
    if change is not None and change.refused:
        raise AttemptFailed(Failure(Reason.other_device, change.message))
    return message.engine


def _keep(hearing: _Hearing, message: Message) -> None:
    context = hearing.context
    match message:
        case Progress():
            hearing.news.tell(message)
        case Evaluation():
            context.commit(lambda session: commits.write_evaluation(session, context.lease, message))
        case StageResult():
            context.commit(lambda session: commits.write_stage(session, context.lease, message))
        case TaskBegun():
            context.commit(lambda session: commits.write_task_begun(session, context.lease, message))
        case TaskResult():
            said = message.error and hearing.redact(message.error)
            result = message.model_copy(update={"error": said})
            context.commit(lambda session: commits.write_task(session, context.lease, result))
        case Note():
            note = hearing.redacted(message)
            hearing.job_log.add(note.level, note.message)
            if note.level != "debug":
                context.commit(lambda session: commits.write_note(session, context.lease, note))
        case _:
            raise ValueError(f"a {message.type}, which is no part of a job")


def _keep_block(hearing: _Hearing, about: Engine, message: BlockResult) -> dict[str, StoredFile]:
    """Upload, commit, and only then acknowledge. The files by their local names."""
    context, stage = hearing.context, message.stage
    stored = {path: hearing.uploads.put_block(path, stage) for _, path in message.files}
    files = [{"role": role, **asdict(stored[path])} for role, path in message.files]
    block = commits.Block(
        result=message, domain=hearing.stages[stage], engine_format=about.engine_format, files=files
    )
    context.commit(lambda session: commits.write_block(session, context.lease, block))
    for role, path in message.files:
        if role == commits.KEPT_ROLE:
            # Nobody here needs it again, and every stage has some: the workspace must not grow with them.
            hearing.uploads.drop(path)
    hearing.engine.say({"type": "ack", "stage": stage, "block": message.block})
    return stored


def _failure(hearing: _Hearing, message: Failed) -> Failure:
    """The engine's own account of its end; the details stay in the worker's log."""
    if message.detail:
        log.error("the engine failed:\n%s", message.detail)
    text = hearing.redact(message.message)
    if message.cause == "user" and message.field not in OPERATORS_FIELDS:
        return Failure(Reason.invalid_input, text, message.code, message.field)
    known: dict[str, Any] = {"fingerprint": message.fingerprint, "details": _figures(message.memory)}
    if message.field == "/device":
        return Failure(Reason.device_unavailable, **known)
    if message.code in NAMED:
        reason = Reason(message.code)
        if reason is Reason.out_of_memory and _is_shared(hearing.context.settings, known["details"]):
            return Failure(Reason.device_shared, details=known["details"])
        return Failure(reason, text, **known)
    return Failure(Reason.engine_failed, text, **known)


def _is_shared(settings: Settings, figures: dict[str, Any] | None) -> bool:
    return figures is not None and figures["others_bytes"] > settings.device_foreign_bytes


def _figures(memory: DeviceMemory | None) -> dict[str, Any] | None:
    """others_bytes: what other processes hold, by what is neither free nor this engine's."""
    if memory is None:
        return None
    return memory.model_dump() | {"others_bytes": others_bytes(memory)}


def _publish(hearing: _Hearing, about: Engine, message: Output, committed: Mapping[str, StoredFile]) -> Ending:
    with span("publish", {"files": len(message.files)}):
        return _publish_all(hearing, about, message, committed)


def _publish_all(hearing: _Hearing, about: Engine, message: Output, committed: Mapping[str, StoredFile]) -> Ending:
    """Upload what is not there yet, then one guarded update."""
    context, lease = hearing.context, hearing.context.lease
    hearing.news.tell_publishing()
    files: list[StoredFile] = []
    for file in message.files:
        context.interrupts.check()
        files.append(hearing.packing.put_output(file.local, file.path, committed))
    model = [file for file in files if file.path.startswith(MODEL)]
    kept = context.commit(lambda session: checkpoints.kept_files(session, lease.job_id, model))
    files += map(hearing.packing.put_kept, kept)
    # After the files that stages share: the card is about the last one's model.
    files += _put_card(hearing, message)
    manifest = make_manifest(files, _provenance(context.claim, about))
    text = json.dumps(manifest, sort_keys=True).encode()
    manifest["key"] = hearing.uploads.put_manifest(manifest["digest"], text)
    hearing.news.write()
    said = [hearing.redacted(each) for each in message.summary.warnings]
    summary = message.summary.model_copy(update={"warnings": said})
    ending = context.end(lambda session: publish(session, lease, manifest, summary))
    hearing.engine.say({"type": "ack", "output": True})
    return ending


def _put_card(hearing: _Hearing, message: Output) -> list[StoredFile]:
    context, claim = hearing.context, hearing.context.claim
    evaluation = context.commit(lambda session: evaluation_of(session, session.get_one(Job, claim.lease.job_id)))
    text = card.make_card(claim, evaluation, message.summary)
    if text is None:
        hearing.job_log.add("warning", "The model card could not be written; the artifact is without one.")
        return []
    return [hearing.uploads.put_made(card.PATH, text)]


def _provenance(claim: Claim, about: Engine) -> dict[str, Any]:
    base = claim.base and {"job": claim.spec["continues"], "manifest_digest": claim.base.manifest_digest}
    return {
        "job": claim.lease.job_id,
        **({"continues": base} if base else {}),
        "spec_digest": claim.spec_digest,
        "model": {"id": claim.model_id, "digest": claim.model_digest},
        "form": form_of(claim.spec),
        **({"masks_of": base_name(claim)} if form_of(claim.spec) is Form.masks else {}),
        "datasets": {name: text.file.sha256 for name, text in sorted(claim.datasets.items())},
        # Which of a host's equal GPUs it was decides no bit.
        "engine": about.model_dump(exclude={"isolation": True, "fingerprint": {"uuid"}})
        | {"device": about.device.partition(":")[0]},
    }


def _count_skipped(skipped: Sequence[SkippedTensor]) -> Note:
    """The tensors that stay as they are: how many and how large for each reason."""
    found: dict[str, dict[str, Any]] = {}
    for tensor in skipped:
        entry = found.setdefault(tensor.reason, {"reason": tensor.reason, "tensors": 0, "weights": 0})
        entry["tensors"] += 1
        entry["weights"] += tensor.weights
    reasons = sorted(found.values(), key=lambda entry: (-entry["weights"], entry["reason"]))
    message = f"{len(skipped)} tensors stay as they are"
    return Note(level="info", message=message, data={"skipped": reasons})


@cache
def warn_of_network() -> None:
    """Once a process: the kernel answers every engine of this worker alike."""
    log.warning(
        "the kernel lets no engine give up its network here: it can reach what this worker can, at least by UDP "
        "(docs/operations.md, The engine's network)"
    )
