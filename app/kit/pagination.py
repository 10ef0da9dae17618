"""Keyset pagination: a page ends with an opaque cursor that names its last row."""

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from app.kit.clock import in_utc
from app.kit.problems import FieldError, Invalid

Limit = Annotated[int, Query(ge=1, le=200, description="Rows a page has at the most.")]
CursorText = Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the page before; opaque.")]
_INT4: Final = 2**31
T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    object: Literal["list"] = "list"
    data: list[T]
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page; null on the last one.")


def encode_cursor(*values: str | int | datetime) -> str:
    """An opaque text that names a row by its sort key."""
    plain = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode().rstrip("=")


def decode_cursor(text: str | None, *types: type) -> list[Any] | None:
    """The sort key of a cursor with exactly these types; None without one. Raises Invalid for any other text."""
    if text is None:
        return None
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(values, list) or len(values) != len(types):
            raise ValueError
        return [_typed(value, type) for value, type in zip(values, types, strict=True)]
    except (ValueError, binascii.Error, RecursionError):
        message = "is not a cursor of this list"
        raise Invalid(f"cursor: {message}", errors=[FieldError(message, parameter="cursor")]) from None


def page_of(rows: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    """The page and whether more follows, from `limit + 1` rows as read."""
    return rows[:limit], len(rows) > limit


def _typed(value: Any, type: type) -> Any:
    if type is datetime:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is None or moment.tzinfo is None:
            raise ValueError
        return in_utc(moment)
    if not isinstance(value, type) or isinstance(value, bool):
        raise ValueError
    if isinstance(value, int) and abs(value) >= _INT4:
        raise ValueError
    if isinstance(value, str):
        value.encode()
        if "\0" in value:
            raise ValueError
    return value
