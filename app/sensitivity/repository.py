"""SQL of the sensitivities' history. Callers have authorised the jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    tuple_,
    values,
)
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import Subquery

from app.jobs.repository import HistoryFilter, Part
from app.jobs.tables import JobLayer, JobStage
from app.kit.globs import matches
from app.sensitivity.tables import TABLES, Basis, MatrixSummary


@dataclass(frozen=True)
class Filter(HistoryFilter):
    """What the history of sensitivities is narrowed to."""

    basis: Basis = Basis.domain


class Summary(NamedTuple):
    """A row of the history."""

    row: MatrixSummary
    share: float | None
    lineage_stage: int


class BlockSummary(NamedTuple):
    """One block of one stage."""

    job_id: str
    stage: int
    lineage_stage: int
    domain: str
    block: int
    matrices: int
    weights: int | None
    total: float
    share: float | None
    basis: Basis


class Record(NamedTuple):
    """A row of the history with what happened to its matrix."""

    row: MatrixSummary
    share: float | None
    lineage_stage: int
    layer: JobLayer | None


class _View:
    """The history of some jobs on one basis, with each stage's number in the lineage and its sum of all scores."""

    def __init__(self, parts: Sequence[Part], filter: Filter) -> None:
        self._filter = filter
        columns = (column("job_id", String), column("first_stage", Integer))
        jobs = values(*columns, name="parts").data([(part.job, part.first_stage) for part in parts])
        self._parts = jobs.alias("parts")
        self.table = TABLES[filter.basis]
        self.lineage_stage: ColumnElement[int] = (self._parts.c.first_stage + self.table.stage).label(
            "lineage_stage"
        )
        self.sums = self._sums([part.job for part in parts])

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
        filter, table = self._filter, self.table
        same = and_(self.sums.c.job_id == table.job_id, self.sums.c.stage == table.stage)
        query = query.join(self._parts, self._parts.c.job_id == table.job_id).outerjoin(self.sums, same)
        if filter.stage is not None:
            query = query.where((self.lineage_stage if filter.lineage else table.stage) == filter.stage)
        if filter.domain is not None:
            query = query.where(table.domain == filter.domain)
        if filter.block is not None:
            query = query.where(table.block == filter.block)
        if filter.matrix is not None:
            query = query.where(matches(table.matrix, filter.matrix))
        return query

    def page(
        self, query: Select[*tuple[Any, ...]], after: Sequence[object] | None, limit: int
    ) -> Select[*tuple[Any, ...]]:
        """By (stage in the lineage, block, matrix)."""
        key = (self.lineage_stage, self.table.block, self.table.matrix)
        if after is not None:
            query = query.where(tuple_(*key) > tuple_(*after))
        return query.order_by(*key).limit(limit)


def list_stages(session: Session, parts: Sequence[Part], filter: Filter) -> list[tuple[Part, int]]:
    """Where there is anything: parts with the job's own numbers of their stages, in the lineage's order."""
    query = select(JobStage.job_id, JobStage.stage).where(JobStage.job_id.in_([part.job for part in parts]))
    begun = session.execute(query.where(JobStage.state != "pending").order_by(JobStage.stage)).all()
    places = [(part, stage) for part in parts for job, stage in begun if job == part.job]
    if filter.stage is None:
        return places
    return [
        (part, stage)
        for part, stage in places
        if stage + (part.first_stage if filter.lineage else 0) == filter.stage
    ]


def list_page(
    session: Session, parts: Sequence[Part], filter: Filter, after: Sequence[object] | None, limit: int
) -> list[Summary]:
    """`after` is the (stage in the lineage, block, matrix) of the last row of the page before."""
    view = _View(parts, filter)
    query = select(view.table, view.share(view.table.total), view.lineage_stage)
    return [Summary(*row) for row in session.execute(view.page(view.narrowed(query), after, limit))]


def list_records(
    session: Session, parts: Sequence[Part], filter: Filter, after: Sequence[object] | None, limit: int
) -> list[Record]:
    """The same rows, each with its matrix's record."""
    view = _View(parts, filter)
    query = select(view.table, view.share(view.table.total), view.lineage_stage, JobLayer)
    query = view.narrowed(query.outerjoin(JobLayer, _same_matrix(view.table)))
    return [Record(*row) for row in session.execute(view.page(query, after, limit))]


def list_blocks(
    session: Session, parts: Sequence[Part], filter: Filter, after: Sequence[object] | None, limit: int
) -> list[BlockSummary]:
    """By (stage in the lineage, block); `after` is that of the last row of the page before."""
    view = _View(parts, filter)
    total = func.sum(view.table.total)
    place = (view.table.job_id, view.table.stage, view.lineage_stage)
    what = (view.table.domain, view.table.block)
    counts = (func.count(), cast(func.sum(JobLayer.weights), BigInteger))
    query = select(*place, *what, *counts, total, view.share(total)).outerjoin(JobLayer, _same_matrix(view.table))
    query = view.narrowed(query).group_by(*place, *what, view.sums.c.whole)
    key = (view.lineage_stage, view.table.block)
    if after is not None:
        query = query.where(tuple_(*key) > tuple_(*after))
    found = session.execute(query.order_by(*key).limit(limit))
    return [BlockSummary._make((*row, filter.basis)) for row in found]


def _same_matrix(table: type[MatrixSummary]) -> ColumnElement[bool]:
    names = ("job_id", "stage", "matrix")
    return and_(*(getattr(JobLayer, name) == getattr(table, name) for name in names))
