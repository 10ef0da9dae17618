"""Globs in query parameters: `*` stands for any text and `?` for one sign."""

from sqlalchemy import ColumnElement, SQLColumnExpression


def matches(column: SQLColumnExpression[str], glob: str) -> ColumnElement[bool]:
    """Whether the column's whole text is what the glob says; without a wildcard, whether it is that text."""
    if not any(sign in glob for sign in "*?"):
        return column == glob
    return column.like("".join(map(_translated, glob)), escape="\\")


def _translated(sign: str) -> str:
    wildcards = {"*": "%", "?": "_"}
    return wildcards.get(sign) or (f"\\{sign}" if sign in "%_\\" else sign)
