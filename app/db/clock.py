"""Moments by the database's clock, which is the only one that leases are measured with."""

from typing import Any

from sqlalchemy import ColumnElement, func


def from_now(seconds: float) -> ColumnElement[Any]:
    """The moment `seconds` after the statement runs (negative: before)."""
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, float(seconds))
