"""What the engine reports, made durable and acknowledged."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Final, TypeVar

from sqlalchemy.exc import DataError, IntegrityError, NoResultFound, StatementError

from app.delivery import checkpoint as checkpoints
from app.delivery import commits
from app.delivery.checkpoint import Checkpoint
from app.delivery.claim import Claim
from app.delivery.endings import Failure
from app.delivery.object_keys import MODEL, StoredFile, attempt_folder
from app.delivery.publish import make_manifest, publish
from app.tables.states import Reason
from secateur.spec.records.history import JobWarning
from secateur.spec.records.pipe import (
    BlockResult,
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
)
from secateur.spec.records.plan import SkippedTensor
from worker.attempt.context import AttemptContext, Ending
from worker.attempt.engine_process import EngineProcess
from worker.attempt.interrupts import AttemptFailed
from worker.attempt.job_log import JobLog
from worker.attempt.news import News
from worker.attempt.redaction import Redactor, redacted
from worker.attempt.scratch import Scratch
from worker.attempt.staging import OPERATORS_FIELDS
from worker.attempt.stall_watchdog import StallWatchdog
from worker.attempt.uploads import Uploads

log = logging.getLogger(__name__)

HEAR_SECONDS: Final = 0.25
NAMED: Final = frozenset({Reason.out_of_memory, Reason.disk_full})
"""Failures of the system that the engine tells apart; every other one is `engine_failed`."""
KEPT: Final = (BlockResult, Evaluation, StageResult)
"""Messages after which nothing is lost when the engine stops."""
UNUSABLE: Final = (LookupError, TypeError, ValueError, DataError, IntegrityError, NoResultFound, StatementError)
Said = TypeVar("Said", Note, JobWarning)


@dataclass(frozen=True)
class _Hearing:
    """What hearing an engine takes."""

    context: AttemptContext
    engine: EngineProcess
    uploads: Uploads
    redact: Redactor
    job_log: JobLog
    news: News

    @property
    def domains(self) -> list[str]:
        return [domain["name"] for domain in self.context.claim.spec["domains"]]

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
    # The artifact is made of the last stage's, by their local names.
    committed = {file.path: file for file in checkpoint.files_of.get(len(hearing.domains) - 1, ())}
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
            match message := _next(engine, watchdog, interrupts.stalled.set):
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
    return _Hearing(
        context=context,
        engine=engine,
        uploads=Uploads(context.store, folder, scratch.workspace, context.interrupts),
        redact=redact,
        job_log=job_log,
        news=News(context, job_log),
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


def _next(engine: EngineProcess, watchdog: StallWatchdog, stall: Callable[[], None]) -> Message | Ended | None:
    """The engine's next message, if any; an engine that is silent for too long stalls the attempt."""
    message = engine.hear(HEAR_SECONDS)
    if message is None and watchdog.is_over():
        log.error("no report of the engine for %.0f s", watchdog.silence())
        stall()
    elif message is not None and not isinstance(message, Ended):
        watchdog.hear(message)
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
    context.commit(lambda session: commits.write_hello(session, context.lease, message, hearing.domains, note))
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
        result=message, domain=hearing.domains[stage], engine_format=about.engine_format, files=files
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
    if message.code in NAMED:
        return Failure(Reason(message.code))
    return Failure(Reason.engine_failed, text, fingerprint=message.fingerprint)


def _publish(hearing: _Hearing, about: Engine, message: Output, committed: Mapping[str, StoredFile]) -> Ending:
    """Upload what is not there yet, then one guarded update."""
    context, lease = hearing.context, hearing.context.lease
    hearing.news.tell_publishing()
    files: list[StoredFile] = []
    for file in message.files:
        context.interrupts.check()
        files.append(hearing.uploads.put_output(file.local, file.path, committed))
    model = [file for file in files if file.path.startswith(MODEL)]
    files += context.commit(lambda session: checkpoints.kept_files(session, lease.job_id, model))
    manifest = make_manifest(files, _provenance(context.claim, about))
    text = json.dumps(manifest, sort_keys=True).encode()
    manifest["key"] = hearing.uploads.put_manifest(manifest["digest"], text)
    hearing.news.write()
    said = [hearing.redacted(each) for each in message.summary.warnings]
    summary = message.summary.model_copy(update={"warnings": said})
    ending = context.end(lambda session: publish(session, lease, manifest, summary))
    hearing.engine.say({"type": "ack", "output": True})
    return ending


def _provenance(claim: Claim, about: Engine) -> dict[str, Any]:
    base = claim.base and {"job": claim.spec["continues"], "manifest_digest": claim.base.manifest_digest}
    return {
        "job": claim.lease.job_id,
        **({"continues": base} if base else {}),
        "spec_digest": claim.spec_digest,
        "model": {"id": claim.model_id, "digest": claim.model_digest},
        "datasets": {name: text.file.sha256 for name, text in sorted(claim.datasets.items())},
        "engine": about.model_dump(exclude={"isolation"}),
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
