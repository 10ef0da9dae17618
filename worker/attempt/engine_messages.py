"""What the engine reports, made durable and acknowledged."""

import json
import logging
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Final

from sqlalchemy.exc import DataError, IntegrityError, StatementError
from sqlalchemy.orm import Session

from app.delivery import checkpoint, commits
from app.delivery.claim import Claim, SourceFile
from app.delivery.endings import Failure
from app.delivery.publish import StoredFile, make_manifest, publish
from app.tables.states import Phase, Reason, State
from worker.attempt.engine_process import END, EngineProcess
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
KEPT: Final = frozenset({"block", "evaluation", "stage"})
"""Messages after which nothing is lost when the engine stops."""
Message = dict[str, Any]
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
        self._hello: Message = {}
        self._progress: Message | None = None
        self._phase: Phase | None = None
        self._written_at = 0.0
        self._failure: Failure | None = None
        self._at_work = False
        self._resting = False
        self._handlers: dict[str, Callable[[Message], None]] = {
            "hello": self._on_hello,
            "progress": self._on_progress,
            "evaluation": self._on_evaluation,
            "block": self._on_block,
            "stage": self._on_stage,
            "note": self._on_note,
            "failed": self._on_failed,
        }

    def run(self) -> State | Failure | None:
        """The job's final state when the output was published; else what the engine said, or None if nothing."""
        while True:
            self._look()
            message = self._hear()
            if message is END:
                self.flush()
                return self._failure
            if message is not None:
                try:
                    if message.get("type") == "output":
                        return self._publish(message)
                    self._handle(message)
                except (KeyError, TypeError, ValueError, DataError, IntegrityError, StatementError) as error:
                    log.exception("a report of the engine could not be used")
                    text = "The engine reported something that the worker could not use."
                    raise AttemptFailed(Failure(Reason.engine_failed, text)) from error
                self._patience.listen(message)
            if time.monotonic() - self._written_at >= WRITE_SECONDS:
                self.flush()

    def _look(self) -> None:
        """Raise Interrupted if the attempt must stop. A pause waits until what the engine has finished is kept."""
        self._resting = self._resting and self._situation.paused.is_set()
        self._situation.in_block = self._at_work and not (self._resting and not self._engine.has_more())
        self._situation.check()

    def _hear(self) -> Message | None:
        """The engine's next message, if any; an engine that is silent for too long stalls the attempt."""
        message = self._engine.hear(HEAR_SECONDS)
        if message is None and self._patience.is_over():
            log.error("no report of the engine for %.0f s", self._patience.silence())
            self._situation.stalled.set()
        elif message is not None:
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
        handler = self._handlers.get(str(message.get("type")))
        if handler is None:
            raise ValueError("a message of an unknown type")
        handler(message)
        if message["type"] in KEPT:
            self._resting = self._situation.paused.is_set()

    def _on_hello(self, message: Message) -> None:
        names = ("engine_format", "versions", "device", "threads", "isolation")
        engine = {name: message.get(name) for name in names}
        self._hello = {**message, **engine}
        if (message.get("isolation") or {}).get("network"):
            warn_of_network()
        plan = message.get("plan") or {}
        skipped = redacted(_count_skipped(plan.get("skipped") or ()), self._redact)
        self._commit(
            lambda session: commits.write_hello(
                session, self._lease, engine, self._domains, plan.get("blocks"), skipped
            )
        )

    def _on_progress(self, message: Message) -> None:
        """Kept until the next write, unless it begins another phase."""
        phase = Phase(message["phase"])
        self._at_work = True
        self._progress = message
        if phase is not self._phase:
            self._phase = phase
            self.flush()

    def _on_evaluation(self, message: Message) -> None:
        self._commit(lambda session: commits.write_evaluation(session, self._lease, message))

    def _on_block(self, message: Message) -> None:
        """Upload, commit, and only then acknowledge."""
        stage, number = int(message["stage"]), int(message["block"])
        block = commits.Block(
            stage=stage,
            domain=self._domains[stage],
            block=number,
            engine_format=int(self._hello["engine_format"]),
            files=[self._store(file, stage) for file in message["files"]],
            records=message["records"],
            sensitivity=message["sensitivity"],
        )
        self._commit(lambda session: commits.write_block(session, self._lease, block))
        self._drop_kept(block)
        self._engine.say({"type": "ack", "stage": stage, "block": number})

    def _drop_kept(self, block: commits.Block) -> None:
        """Nobody here needs these files again, and every stage has some: the workspace must not grow with them."""
        for file in block.files:
            if file["role"] == commits.KEPT_ROLE:
                self._uploads.drop(file["path"])

    def _store(self, file: Message, stage: int) -> Message:
        stored = self._uploads.put_block(file["path"], stage)
        if stage == len(self._domains) - 1:
            self._last_stage[stored.path] = stored
        return {
            "role": file["role"],
            "path": stored.path,
            "sha256": stored.sha256,
            "bytes": stored.bytes,
            "key": stored.key,
        }

    def _on_stage(self, message: Message) -> None:
        self._commit(lambda session: commits.write_stage(session, self._lease, message))

    def _on_note(self, message: Message) -> None:
        note: Message = redacted(message, self._redact)
        self._book.add(note["level"], note["message"])
        if note["level"] != "debug":
            self._commit(lambda session: commits.write_note(session, self._lease, note))

    def _on_failed(self, message: Message) -> None:
        """The engine's own account of its end; the details stay in the worker's log."""
        if detail := message.get("detail"):
            log.error("the engine failed:\n%s", detail)
        text = self._redact(str(message["message"]))
        if message["cause"] == "user" and message.get("field") not in OPERATORS_FIELDS:
            self._failure = Failure(Reason.invalid_input, text, str(message["code"]), message.get("field"))
        elif message["code"] in NAMED:
            self._failure = Failure(Reason(message["code"]))
        else:
            self._failure = Failure(Reason.engine_failed, text, fingerprint=message.get("fingerprint"))

    def _publish(self, message: Message) -> State:
        """Upload what is not there yet, then one guarded update."""
        self._progress = {**(self._progress or {"fraction": 1.0}), "phase": Phase.publishing}
        self.flush()
        files: list[StoredFile] = []
        for file in message["files"]:
            self._situation.check()
            files.append(self._uploads.put_output(file["local"], file["path"], self._last_stage))
        files += self._commit(lambda session: checkpoint.kept_files(session, self._lease.job_id))
        manifest = make_manifest(files, self._provenance())
        text = json.dumps(manifest, sort_keys=True).encode()
        manifest["key"] = self._uploads.put_manifest(manifest["digest"], text)
        self.flush()
        summary = {**message["summary"], "warnings": self._warnings(message["summary"])}
        state: State = self._end(lambda session: publish(session, self._lease, manifest, summary))
        self._engine.say({"type": "ack", "output": True})
        return state

    def _warnings(self, summary: Message) -> list[Message]:
        """Free of the worker's paths, like all that an owner reads."""
        warnings = redacted(summary.get("warnings") or (), self._redact)
        return [{name: each[name] for name in ("code", "message", "data")} for each in warnings]

    def _provenance(self) -> dict[str, Any]:
        claim = self._claim
        base = claim.base and {"job": claim.spec["continues"], "manifest_digest": claim.base.manifest_digest}
        return {
            "job": claim.lease.job_id,
            **({"continues": base} if base else {}),
            "spec_digest": claim.spec_digest,
            "model": {"id": claim.model_id, "digest": claim.model_digest},
            "datasets": {name: text.file.sha256 for name, text in sorted(claim.datasets.items())},
            "engine": {name: self._hello.get(name) for name in ("engine_format", "versions", "device", "threads")},
        }


def _count_skipped(skipped: Iterable[Message]) -> Message | None:
    """A note of the tensors that stay as they are: how many and how large for each reason; None without any."""
    found: dict[str, Message] = {}
    for tensor in skipped:
        entry = found.setdefault(tensor["reason"], {"reason": tensor["reason"], "tensors": 0, "weights": 0})
        entry["tensors"] += 1
        entry["weights"] += tensor["weights"]
    if not found:
        return None
    reasons = sorted(found.values(), key=lambda entry: (-entry["weights"], entry["reason"]))
    message = f"{sum(entry['tensors'] for entry in reasons)} tensors stay as they are"
    return {"level": "info", "message": message, "data": {"skipped": reasons}}


@cache
def warn_of_network() -> None:
    """Once a process: the kernel answers every engine of this worker alike."""
    log.warning(
        "the kernel lets no engine give up its network here: it can reach what this worker can, at least by UDP "
        "(docs/operations.md, The engine's network)"
    )
