"""Rows of one job as rows of another, inside the database: there can be a great many."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, insert, literal, select
from sqlalchemy.orm import Session

from app.db.base import Base


def copy_rows(
    session: Session,
    table: type[Base],
    old: str,
    new: str,
    changed: Mapping[str, Any] | None = None,
    where: ColumnElement[bool] | None = None,
) -> None:
    """Give `new` what `old` has in a table by `job_id`. changed: columns with another value. where: of which rows;
    None: of all."""
    values = {"job_id": new, **(changed or {})}
    columns = table.__table__.columns
    names: Sequence[str] = [column.name for column in columns]
    selected = [literal(values[name]) if name in values else columns[name] for name in names]
    rows = select(*selected).where(columns["job_id"] == old, *(() if where is None else (where,)))
    session.execute(insert(table).from_select(names, rows))
