"""A job's answer, made straight from its columns: pages are long, and polls are many.

What is in it is said by `JobRead`; a test holds the two against each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Response
from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_json
from sqlalchemy import Text, cast

from app.jobs.schemas import FailureRead, LossesRead, ProgressRead, ResultRead
from app.kit.headers import Sent
from app.tables.jobs import Job, JobProgress
from app.tables.states import LEASED, TERMINAL, State
from secateur.spec.durations import format_duration
from secateur.spec.records.history import JobWarning, Phase

Document = dict[str, Any]

JSON: Final = "application/json"
JOB: Final = (Sent.etag, Sent.retry_after)
"""Headers that a job's answer has; the latter as long as anything can change."""
_SAME: Final = (
    *("id", "state", "phase", "method", "spec_digest", "labels", "priority", "retry_of", "continues"),
    *("first_stage", "attempts", "created_at", "updated_at", "started_at", "finished_at"),
)
"""Columns that are shown as they are."""
_MADE: Final = (
    *("version", "model_id", "max_runtime_seconds", "max_pending_seconds", "lineage_id", "runtime_seconds"),
    *("cancel_requested_at", "pause_requested_at", *LossesRead.model_fields, "failure", "result"),
)
_JOB: Final = (*_SAME, *_MADE)
_PROGRESS: Final = (*ProgressRead.model_fields, "version")


def job_columns(jobs: Any) -> list[Any]:
    """What `Snapshot.of` wants of a job. jobs: the columns of the table or of some of its rows."""
    return [*(jobs[name] for name in _JOB), cast(jobs["spec"], Text)]


PROGRESS: Final = tuple(JobProgress.__table__.c[name] for name in _PROGRESS)
"""What it wants of the job's progress, if there is any; last of all what says whether there is."""
COLUMNS: Final = (*job_columns(Job.__table__.c), *PROGRESS)
_JOBS: Final = len(_JOB) + 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job and its progress as one statement read them."""

    job: Mapping[str, Any]
    spec: str
    """The column's text: a spec is large, and is sent as it lies there."""
    progress: Mapping[str, Any] | None

    @classmethod
    def of(cls, row: Sequence[Any]) -> "Snapshot":
        """From the values of COLUMNS."""
        progress = dict(zip(_PROGRESS, row[_JOBS:], strict=True)) if row[-1] is not None else None
        return cls(dict(zip(_JOB, row, strict=False)), row[_JOBS - 1], progress)

    @property
    def etag(self) -> str:
        return etag(self.job["version"], self.progress["version"] if self.progress else None, self.job["state"])

    @property
    def retry_after(self) -> int | None:
        return retry_after(self.job["state"], self.job["phase"])

    def body(self) -> bytes:
        """As `JobRead` says, as it is sent."""
        return b'{"spec":%b,%b' % (self.spec.encode(), to_json(self._document(), inf_nan_mode="null")[1:])

    def _document(self) -> Document:
        job, progress = self.job, self.progress
        return {
            **{name: job[name] for name in _SAME},
            "object": "job",
            "model": job["model_id"],
            "lineage": job["lineage_id"] or job["id"],
            "limits": {
                "max_runtime": _duration(job["max_runtime_seconds"]),
                "max_pending": _duration(job["max_pending_seconds"]),
            },
            "losses": {name: job[name] for name in LossesRead.model_fields},
            "runtime_seconds": round(job["runtime_seconds"], 3),
            "progress": None if progress is None else {name: progress[name] for name in ProgressRead.model_fields},
            "failure": _shown(FailureRead, job["failure"]),
            "result": _result(job["result"]),
            "cancel_requested": job["cancel_requested_at"] is not None,
            "pause_requested": job["pause_requested_at"] is not None,
        }


def etag(version: int, progress: int | None, state: str) -> str:
    """Strong: two answers have the same one only if they are the same. It begins with what `If-Match` is about,
    and ends with the state, so that a waiting call knows which one its caller has seen."""
    return f'"{version}-{progress or 0}-{state}"'


def states_of(header: str) -> list[str]:
    """The states that a caller's tags are of."""
    return [tag.strip().strip('"').rpartition("-")[2] for tag in header.split(",")]


def retry_after(state: str, phase: str | None) -> int | None:
    """Seconds after which it is worth asking again; None when nothing will change any more."""
    if state in TERMINAL:
        return None
    if state in LEASED and state != State.running:
        return 2
    return 2 if phase in (None, Phase.staging, Phase.publishing) else 5


def job_reply(snapshot: Snapshot, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The job as an answer, with its tag and when to ask again."""
    return Response(snapshot.body(), status, {**poll_headers(snapshot), **(headers or {})}, JSON)


def poll_headers(snapshot: Snapshot) -> dict[str, str]:
    """`ETag`, and `Retry-After` while anything can change."""
    pause = snapshot.retry_after
    return {"ETag": snapshot.etag} | ({} if pause is None else {"Retry-After": str(pause)})


def page_body(snapshots: Iterable[Snapshot], following: str | None) -> bytes:
    """A page of jobs as it is sent. following: the next one's cursor."""
    data = b",".join(each.body() for each in snapshots)
    return b'{"object":"list","data":[%b],"next_cursor":%b}' % (data, to_json(following))


def _duration(seconds: int | None) -> str | None:
    return None if seconds is None else format_duration(seconds)


def _result(stored: Mapping[str, Any] | None) -> Document | None:
    shown = _shown(ResultRead, stored)
    if shown is not None:
        shown["warnings"] = [_shown(JobWarning, each) for each in shown["warnings"]]
    return shown


def _shown(model: type[BaseModel], stored: Mapping[str, Any] | None) -> Document | None:
    """A stored object's fields that are shown; what an older release did not write has its default."""
    if stored is None:
        return None
    return {name: stored.get(name, default) for name, default in _DEFAULTS[model]}


_DEFAULTS: Final[dict[type[BaseModel], list[tuple[str, Any]]]] = {
    model: [
        (name, None if field.default is PydanticUndefined else field.default)
        for name, field in model.model_fields.items()
    ]
    for model in (FailureRead, ResultRead, JobWarning)
}
