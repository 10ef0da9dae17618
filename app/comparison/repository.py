"""SQL of comparing what two jobs did to each matrix. Callers have authorised both."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, FromClause, and_, case, cast, exists, func, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import Subquery

from app.kit.globs import matches
from app.kit.pagination import Listing, PageRequest
from app.tables.jobs import JobMatrix, JobStage
from app.tables.models import Model
from app.tables.sensitivity import TABLES, JobDomainSensitivity
from secateur.spec.records.history import Basis
from secateur.spec.sparsity import further_name

FIGURES = (
    "sparsity",
    "pattern",
    "solver",
    "relative_error",
    "held_out_error",
    "mask_sha256",
    "weights_sha256",
)


@dataclass(frozen=True)
class Side:
    """One stage of one job."""

    job: str
    stage: int
    domain: str


class Pair(NamedTuple):
    """One matrix on both sides; all is null on a side that has not pruned it."""

    block: int
    matrix: str
    weights: int
    one: dict[str, Any]
    other: dict[str, Any]


def last_stage(session: Session, job: str, stage: int | None) -> Side | None:
    """That stage of a job, or the last one of a domain; None unless it is finished."""
    query = select(JobStage).where(JobStage.job_id == job, JobStage.state == "done")
    which = JobStage.domain.not_like(further_name("%")) if stage is None else JobStage.stage == stage
    query = query.where(which)
    row = session.scalars(query.order_by(JobStage.stage.desc()).limit(1)).one_or_none()
    return None if row is None else Side(job, row.stage, row.domain)


def model_digest(session: Session, model: str) -> str | None:
    """Digest of a model's files, once they are known."""
    return session.scalar(select(Model.digest).where(Model.id == model))


def common_basis(session: Session, *sides: Side) -> Basis:
    """By the domain alone where every side has its sensitivities so."""
    table = JobDomainSensitivity
    for side in sides:
        if not session.scalar(select(exists().where(table.job_id == side.job, table.stage == side.stage))):
            return Basis.accumulated
    return Basis.domain


def list_pairs(
    session: Session,
    one: Side,
    other: Side,
    basis: Basis,
    matrix: str | None,
    page: PageRequest,
) -> tuple[list[Pair], str | None]:
    """By (block, matrix), and the next page's cursor. matrix: a name or a glob."""
    a, b = _records(one, matrix, "one", basis), _records(other, matrix, "other", basis)
    key = (func.coalesce(a.c.block, b.c.block), func.coalesce(a.c.matrix, b.c.matrix))
    columns = [column for side in (a, b) for column in side.c]
    query = select(*key, func.coalesce(a.c.weights, b.c.weights), *columns).select_from(_joined(a, b))
    names = a.c.keys()
    found = []
    rows, following = page.rows(session, Listing(query, key))
    for block, name, weights, *figures in rows:
        halves = (dict(zip(names, half, strict=True)) for half in (figures[: len(names)], figures[len(names) :]))
        found.append(Pair(block, name, weights, *halves))
    return found, following


def totals(session: Session, one: Side, other: Side, matrix: str | None) -> dict[str, int]:
    """What the pairs have in common, by the names of `AgreementRead`."""
    a, b = _records(one, matrix, "one"), _records(other, matrix, "other")
    both = and_(a.c.matrix.is_not(None), b.c.matrix.is_not(None))
    same_mask = a.c.mask_sha256 == b.c.mask_sha256
    weights = cast(func.coalesce(a.c.weights, b.c.weights), BigInteger)
    sums = {
        "matrices": _count(both),
        "only_job": _count(b.c.matrix.is_(None)),
        "only_other": _count(a.c.matrix.is_(None)),
        "same_masks": _count(same_mask),
        "same_weights": _count(a.c.weights_sha256 == b.c.weights_sha256),
        "unknown": _count(and_(both, same_mask.is_(None))),
        "weights": _sum(weights, both),
        "weights_under_same_masks": _sum(weights, same_mask),
    }
    found = session.execute(select(*sums.values()).select_from(_joined(a, b))).one()
    return dict(zip(sums, found, strict=True))


def _records(side: Side, matrix: str | None, name: str, basis: Basis = Basis.domain) -> Subquery:
    """Of one side: each matrix's record, mean sensitivity and share of the whole stage's sensitivity."""
    table = TABLES[basis]
    summary = and_(
        table.job_id == JobMatrix.job_id, table.stage == JobMatrix.stage, table.matrix == JobMatrix.matrix
    )
    share = table.total / func.nullif(func.sum(table.total).over(), 0)
    figures = [getattr(JobMatrix, name) for name in ("block", "matrix", "weights", *FIGURES)]
    query = select(*figures, table.mean.label("mean"), share.label("share"))
    query = query.outerjoin(table, summary)
    whole = query.where(JobMatrix.job_id == side.job, JobMatrix.stage == side.stage).subquery()
    if matrix is None:
        return whole
    return select(whole).where(matches(whole.c.matrix, matrix)).subquery(name)


def _joined(a: Subquery, b: Subquery) -> FromClause:
    return a.outerjoin(b, a.c.matrix == b.c.matrix, full=True)


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(case((condition, 1)))


def _sum(value: ColumnElement[int], condition: ColumnElement[bool]) -> ColumnElement[int]:
    return cast(func.coalesce(func.sum(case((condition, value))), 0), BigInteger)
