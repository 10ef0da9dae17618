"""Who asks for a job, and how it stands: for many callers by one statement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import ARRAY, Connection, LargeBinary, Select, String, and_, bindparam, func, select

from app.auth.repository import KEY, opened_by
from app.auth.service import Principal, note_use, principal_of
from app.jobs.documents import COLUMNS, Snapshot, etag, retry_after
from app.tables.auth import ApiKey
from app.tables.jobs import Job, JobProgress


class Asked(NamedTuple):
    """A key's digest and the job that its holder asks for."""

    digest: bytes
    job: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a job stands."""

    version: int
    progress: int | None
    state: str
    phase: str | None
    snapshot: Snapshot | None = None
    """All of it, where that was asked for."""

    @property
    def etag(self) -> str:
        return etag(self.version, self.progress, self.state)

    @property
    def retry_after(self) -> int | None:
        return retry_after(self.state, self.phase)


Looked = tuple[Principal | None, Standing | None]
"""Whose key it is, if it works, and the job if it is of the key's project."""

_ASKED: Final = (
    func.unnest(bindparam("digests", type_=ARRAY(LargeBinary)), bindparam("jobs", type_=ARRAY(String)))
    .table_valued("digest", "job", with_ordinality="number")
    .render_derived()
)


def _statement(columns: Sequence[Any]) -> Select[*tuple[Any, ...]]:
    """For each question that a working key asks: its number, the key, and of the project's job the columns."""
    tables = (
        _ASKED.join(ApiKey, opened_by(_ASKED.c.digest))
        .outerjoin(Job, and_(Job.id == _ASKED.c.job, Job.project_id == ApiKey.project_id))
        .outerjoin(JobProgress, JobProgress.job_id == Job.id)
    )
    return select(_ASKED.c.number, *KEY, *columns).select_from(tables)


_BRIEF: Final = _statement((Job.version, JobProgress.version, Job.state, Job.phase))
_WHOLE: Final = _statement(COLUMNS)
_KEY_END: Final = 1 + len(KEY)


def look(connection: Connection, asked: Sequence[Asked]) -> list[Looked]:
    """How the jobs stand, without what is in them."""
    return _look(connection, _BRIEF, asked, lambda row: Standing(*row) if row[0] is not None else None)


def look_whole(connection: Connection, asked: Sequence[Asked]) -> list[Looked]:
    """The same with all that is shown of them."""
    return _look(
        connection, _WHOLE, asked, lambda row: _standing(Snapshot.of(row)) if row[0] is not None else None
    )


def _look(connection: Connection, statement: Any, asked: Sequence[Asked], standing: Any) -> list[Looked]:
    found: list[Looked] = [(None, None)] * len(asked)
    given = {"digests": [each.digest for each in asked], "jobs": [each.job for each in asked]}
    rows = connection.execute(statement, given).all()
    for row in rows:
        found[row[0] - 1] = (principal_of(row[1:_KEY_END]), standing(row[_KEY_END:]))
    note_use(connection, [row[1:_KEY_END] for row in rows])
    return found


def _standing(snapshot: Snapshot) -> Standing:
    job, progress = snapshot.job, snapshot.progress
    version = progress["version"] if progress is not None else None
    return Standing(job["version"], version, job["state"], job["phase"], snapshot)
