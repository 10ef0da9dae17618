"""SQL of the sensitivities' history. Callers have authorised the jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    SQLColumnExpression,
    String,
    and_,
    cast,
    column,
    func,
    select,
    union,
    values,
)
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import Subquery

from app.jobs.repository import HistoryFilter, Part, belongs
from app.kit.pagination import Listing
from app.tables.jobs import JobMatrix, JobStage
from app.tables.sensitivity import TABLES, MatrixSummary
from secateur.spec.records.history import Basis

PLACE: Final = ("job_id", "stage", "domain", "block", "matrix")


@dataclass(frozen=True)
class Filter(HistoryFilter):
    """What the history of sensitivities is narrowed to."""

    basis: Basis = Basis.domain


class Record(NamedTuple):
    """A row of the history with what happened to its matrix; where there is no summary of that, `row` has only its
    place."""

    row: MatrixSummary
    share: float | None
    lineage_stage: int
    record: JobMatrix | None


class _View:
    """The history of some jobs on one basis, with each stage's number in the lineage and its sum of all scores.

    records: of every matrix that has a record or a summary; otherwise of those with a summary.
    """

    def __init__(self, parts: Sequence[Part], filter: Filter, *, records: bool = False) -> None:
        self._filter, self._jobs = filter, parts
        columns = (column("job_id", String), column("first_stage", Integer))
        jobs = values(*columns, name="parts").data([(part.job, part.first_stage) for part in parts])
        self._parts = jobs.alias("parts")
        self.table = TABLES[filter.basis]
        names = [part.job for part in parts]
        self.places = self._places(names)
        self.place: Any = self.places.c if records else self.table
        """Has the columns of PLACE, of every row."""
        self.lineage_stage: ColumnElement[int] = (self._parts.c.first_stage + self.place.stage).label(
            "lineage_stage"
        )
        self.sums = self._sums(names)

    def _places(self, jobs: list[str]) -> Subquery:
        queries = []
        for table in (JobMatrix, self.table):
            query = select(table.job_id, table.stage, table.block, table.matrix).where(table.job_id.in_(jobs))
            if self._filter.stage is not None and not self._filter.lineage:
                query = query.where(table.stage == self._filter.stage)
            queries.append(query)
        either = union(*queries).subquery("either")
        stage = and_(JobStage.job_id == either.c.job_id, JobStage.stage == either.c.stage)
        return select(either, JobStage.domain).join(JobStage, stage).subquery("places")

    def _sums(self, jobs: list[str]) -> Subquery:
        """Of finished stages, whatever the history is narrowed to: shares of a part would not be shares."""
        table = self.table
        stage = and_(JobStage.job_id == table.job_id, JobStage.stage == table.stage)
        query = select(table.job_id, table.stage, func.sum(table.total).label("whole"))
        query = query.join(JobStage, stage).where(table.job_id.in_(jobs), JobStage.state == "done")
        if self._filter.stage is not None and not self._filter.lineage:
            query = query.where(table.stage == self._filter.stage)
        return query.group_by(table.job_id, table.stage).subquery("sums")

    def share(self, total: SQLColumnExpression[float]) -> ColumnElement[Any]:
        return (total / func.nullif(self.sums.c.whole, 0)).label("share")

    def narrowed(self, query: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
        place = self.place
        same = and_(self.sums.c.job_id == place.job_id, self.sums.c.stage == place.stage)
        query = query.join(self._parts, self._parts.c.job_id == place.job_id).outerjoin(self.sums, same)
        query = query.where(belongs(self._jobs, place.job_id, place.domain))
        return self._filter.narrowed(query, self.lineage_stage, place, place.domain)

    def listing(self, query: Select[*tuple[Any, ...]]) -> Listing:
        """By (stage in the lineage, block, matrix)."""
        return Listing(self.narrowed(query), (self.lineage_stage, self.place.block, self.place.matrix))


def list_stages(session: Session, parts: Sequence[Part], filter: Filter) -> list[tuple[Part, int]]:
    """Where there is anything: parts with the job's own numbers of their stages, in the lineage's order."""
    query = select(JobStage.job_id, JobStage.stage).where(JobStage.job_id.in_([part.job for part in parts]))
    query = query.where(belongs(parts, JobStage.job_id, JobStage.domain))
    begun = session.execute(query.where(JobStage.state != "pending").order_by(JobStage.stage)).all()
    places = [(part, stage) for part in parts for job, stage in begun if job == part.job]
    if filter.stage is None:
        return places
    return [
        (part, stage)
        for part, stage in places
        if stage + (part.first_stage if filter.lineage else 0) == filter.stage
    ]


def matrices(parts: Sequence[Part], filter: Filter) -> Listing:
    """(summary, share, stage in the lineage) of each matrix and stage."""
    view = _View(parts, filter)
    return view.listing(select(view.table, view.share(view.table.total), view.lineage_stage))


def list_records(
    session: Session, parts: Sequence[Part], filter: Filter, after: Sequence[object] | None, limit: int
) -> tuple[list[Record], Sequence[object] | None]:
    """Every matrix with its record and its summary, either of which may be missing, and the last one's key for the
    next call. Stages of earlier releases have no summaries of their own domain."""
    view = _View(parts, filter, records=True)
    table, place = view.table, view.place
    query = select(table, view.share(table.total), view.lineage_stage, JobMatrix, *(place[name] for name in PLACE))
    query = query.select_from(view.places).outerjoin(table, _same_matrix(table, place))
    query = query.outerjoin(JobMatrix, _same_matrix(JobMatrix, place))
    found = []
    rows = view.listing(query).read(session, after, limit)
    for (row, share, lineage_stage, record, *where), _ in rows:
        summary = row or table(**dict(zip(PLACE, where, strict=True)), quantiles={}, histogram={})
        found.append(Record(summary, share, lineage_stage, record))
    return found, rows[-1][1] if rows else after


def blocks(parts: Sequence[Part], filter: Filter) -> Listing:
    """What `BlockSensitivityRead.of` takes, by (stage in the lineage, block)."""
    view = _View(parts, filter)
    total = func.sum(view.table.total)
    place = (view.table.job_id, view.table.stage, view.lineage_stage)
    what = (view.table.domain, view.table.block)
    counts = (func.count(), cast(func.sum(JobMatrix.weights), BigInteger))
    query = select(*place, *what, *counts, total, view.share(total)).outerjoin(
        JobMatrix, _same_matrix(JobMatrix, view.table)
    )
    query = view.narrowed(query).group_by(*place, *what, view.sums.c.whole)
    return Listing(query, (view.lineage_stage, view.table.block))


def _same_matrix(table: type[JobMatrix] | type[MatrixSummary], place: Any) -> ColumnElement[bool]:
    names = ("job_id", "stage", "matrix")
    return and_(*(getattr(table, name) == getattr(place, name) for name in names))
