"""What the engine reports, made durable and acknowledged."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any, Final, TypeVar

from sqlalchemy.exc import DataError, IntegrityError, NoResultFound, StatementError
from sqlalchemy.orm import Session

from app.delivery import checkpoint, commits
from app.delivery.claim import Claim, SourceFile
from app.delivery.endings import Failure
from app.delivery.publish import StoredFile, make_manifest, publish
from app.tables.states import Reason, State
from secateur.spec.records.history import JobWarning, Phase, Record
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
from worker.attempt.engine_process import EngineProcess
from worker.attempt.interrupts import AttemptFailed, Interrupts
from worker.attempt.job_log import JobLog
from worker.attempt.redaction import redacted
from worker.attempt.staging import OPERATORS_FIELDS
from worker.attempt.stall_watchdog import StallWatchdog
from worker.attempt.uploads import Uploads

log = logging.getLogger(__name__)

WRITE_SECONDS: Final = 1.0
"""Progress and log lines are written this often at the most."""
HEAR_SECONDS: Final = 0.25
NAMED: Final = frozenset({Reason.out_of_memory, Reason.disk_full})
"""Failures of the system that the engine tells apart; every other one is `engine_failed`."""
KEPT: Final = (BlockResult, Evaluation, StageResult)
"""Messages after which nothing is lost when the engine stops."""
UNUSABLE: Final = (LookupError, TypeError, ValueError, DataError, IntegrityError, NoResultFound, StatementError)
Said = TypeVar("Said", Note, JobWarning)
Commit = Callable[[Callable[[Session], Any]], Any]


class EngineMessages:
    """Reads messages until the engine's output is published, or raises what ended it."""

    def __init__(
        self,
        claim: Claim,
        engine: EngineProcess,
        uploads: Uploads,
        book: JobLog,
        interrupts: Interrupts,
        patience: StallWatchdog,
        commit: Commit,
        end: Commit,
        redact: Callable[[str], str],
        last_stage: Iterable[SourceFile] = (),
    ) -> None:
        """commit: runs a function in a guarded transaction. end: the same for one that gives up the lease.

        last_stage: files of blocks of the last stage that earlier attempts have committed.
        """
        self._claim = claim
        self._lease = claim.lease
        self._engine = engine
        self._uploads = uploads
        self._book = book
        self._situation = interrupts
        self._patience = patience
        self._commit = commit
        self._end = end
        self._redact = redact
        self._domains = [domain["name"] for domain in claim.spec["domains"]]
        self._last_stage = {file.path: StoredFile(**vars(file)) for file in last_stage}
        """Files of committed blocks of the last stage, by their local names; the artifact is made of them."""
        self._hello: Engine | None = None
        self._progress: Progress | None = None
        self._phase: Phase | None = None
        self._written_at = 0.0
        self._failure: Failure | None = None
        self._at_work = False
        self._resting = False
        self._handlers: dict[type[Record], Callable[[Any], None]] = {
            Hello: self._on_hello,
            Progress: self._on_progress,
            Evaluation: self._on_evaluation,
            BlockResult: self._on_block,
            StageResult: self._on_stage,
            Note: self._on_note,
            Failed: self._on_failed,
        }

    def run(self) -> State | Failure | None:
        """The job's final state when the output was published; else what the engine said, or None if nothing."""
        while True:
            self._look()
            try:
                message = self._hear()
                if isinstance(message, Ended):
                    self.flush()
                    return self._failure
                if isinstance(message, Output):
                    return self._publish(message)
                if message is not None:
                    self._handle(message)
            except UNUSABLE as error:
                log.exception("a report of the engine could not be used")
                text = "The engine reported something that the worker could not use."
                raise AttemptFailed(Failure(Reason.engine_failed, text)) from error
            if message is not None:
                self._patience.listen(message)
            if time.monotonic() - self._written_at >= WRITE_SECONDS:
                self.flush()

    def _look(self) -> None:
        """Raise Interrupted if the attempt must stop. A pause waits until what the engine has finished is kept."""
        self._resting = self._resting and self._situation.paused.is_set()
        self._situation.in_block = self._at_work and not (self._resting and not self._engine.has_more())
        self._situation.check()

    def _hear(self) -> Message | Ended | None:
        """The engine's next message, if any; an engine that is silent for too long stalls the attempt."""
        message = self._engine.hear(HEAR_SECONDS)
        if message is None and self._patience.is_over():
            log.error("no report of the engine for %.0f s", self._patience.silence())
            self._situation.stalled.set()
        elif message is not None and not isinstance(message, Ended):
            self._patience.hear(message)
        return message

    def flush(self) -> None:
        """Write down the newest progress and all waiting log lines."""
        progress, self._progress = self._progress, None
        lines = self._book.take()
        self._written_at = time.monotonic()
        if progress is None and not lines:
            return

        def write(session: Session) -> None:
            if progress is not None:
                commits.write_progress(session, self._lease, progress)
            commits.write_log(session, self._lease, lines)

        self._commit(write)

    def _handle(self, message: Message) -> None:
        self._handlers[type(message)](message)
        if isinstance(message, KEPT):
            self._resting = self._situation.paused.is_set()

    def _on_hello(self, message: Hello) -> None:
        self._hello = message.engine
        if message.engine.isolation.get("network"):
            warn_of_network()
        note = self._redacted(_count_skipped(message.skipped)) if message.skipped else None
        self._commit(lambda session: commits.write_hello(session, self._lease, message, self._domains, note))

    def _on_progress(self, message: Progress) -> None:
        """Kept until the next write, unless it begins another phase."""
        self._at_work = True
        self._progress = message
        if message.phase is not self._phase:
            self._phase = message.phase
            self.flush()

    def _on_evaluation(self, message: Evaluation) -> None:
        self._commit(lambda session: commits.write_evaluation(session, self._lease, message))

    def _on_block(self, message: BlockResult) -> None:
        """Upload, commit, and only then acknowledge."""
        block = commits.Block(
            result=message,
            domain=self._domains[message.stage],
            engine_format=self._engine_said.engine_format,
            files=[self._store(*file, message.stage) for file in message.files],
        )
        self._commit(lambda session: commits.write_block(session, self._lease, block))
        self._drop_kept(block)
        self._engine.say({"type": "ack", "stage": message.stage, "block": message.block})

    @property
    def _engine_said(self) -> Engine:
        if self._hello is None:
            raise ValueError("no hello came first")
        return self._hello

    def _drop_kept(self, block: commits.Block) -> None:
        """Nobody here needs these files again, and every stage has some: the workspace must not grow with them."""
        for file in block.files:
            if file["role"] == commits.KEPT_ROLE:
                self._uploads.drop(file["path"])

    def _store(self, role: str, path: str, stage: int) -> dict[str, Any]:
        stored = self._uploads.put_block(path, stage)
        if stage == len(self._domains) - 1:
            self._last_stage[stored.path] = stored
        return {"role": role, **asdict(stored)}

    def _on_stage(self, message: StageResult) -> None:
        self._commit(lambda session: commits.write_stage(session, self._lease, message))

    def _on_note(self, message: Note) -> None:
        note = self._redacted(message)
        self._book.add(note.level, note.message)
        if note.level != "debug":
            self._commit(lambda session: commits.write_note(session, self._lease, note))

    def _redacted(self, said: Said) -> Said:
        """Free of the worker's paths, like all that an owner reads."""
        clean = {"message": self._redact(said.message), "data": redacted(said.data, self._redact)}
        return said.model_copy(update=clean)

    def _on_failed(self, message: Failed) -> None:
        """The engine's own account of its end; the details stay in the worker's log."""
        if message.detail:
            log.error("the engine failed:\n%s", message.detail)
        text = self._redact(message.message)
        if message.cause == "user" and message.field not in OPERATORS_FIELDS:
            self._failure = Failure(Reason.invalid_input, text, message.code, message.field)
        elif message.code in NAMED:
            self._failure = Failure(Reason(message.code))
        else:
            self._failure = Failure(Reason.engine_failed, text, fingerprint=message.fingerprint)

    def _publish(self, message: Output) -> State:
        """Upload what is not there yet, then one guarded update."""
        progress = self._progress or Progress(phase=Phase.publishing, fraction=1.0)
        self._progress = progress.model_copy(update={"phase": Phase.publishing})
        self.flush()
        files: list[StoredFile] = []
        for file in message.files:
            self._situation.check()
            files.append(self._uploads.put_output(file.local, file.path, self._last_stage))
        files += self._commit(lambda session: checkpoint.kept_files(session, self._lease.job_id))
        manifest = make_manifest(files, self._provenance())
        text = json.dumps(manifest, sort_keys=True).encode()
        manifest["key"] = self._uploads.put_manifest(manifest["digest"], text)
        self.flush()
        said = [self._redacted(each) for each in message.summary.warnings]
        summary = message.summary.model_copy(update={"warnings": said})
        state: State = self._end(lambda session: publish(session, self._lease, manifest, summary))
        self._engine.say({"type": "ack", "output": True})
        return state

    def _provenance(self) -> dict[str, Any]:
        claim = self._claim
        base = claim.base and {"job": claim.spec["continues"], "manifest_digest": claim.base.manifest_digest}
        return {
            "job": claim.lease.job_id,
            **({"continues": base} if base else {}),
            "spec_digest": claim.spec_digest,
            "model": {"id": claim.model_id, "digest": claim.model_digest},
            "datasets": {name: text.file.sha256 for name, text in sorted(claim.datasets.items())},
            "engine": self._engine_said.model_dump(exclude={"isolation"}),
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
