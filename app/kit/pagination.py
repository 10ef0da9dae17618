"""Keyset pagination: a page ends with an opaque cursor that names its last row, and the list that it is of."""

import base64
import binascii
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy import FromClause, Integer, Select, bindparam, tuple_
from sqlalchemy.orm import Session

from app.kit.clock import in_utc
from app.kit.problems import FieldError, Invalid

_INT4: Final = 2**31
_NO_FILTERS: Final = frozenset({"cursor", "limit", "part", "wait"})
"""Parameters that change from page to page without making another list."""
_OTHER_LIST: Final = "is of another list or of other filters; leave it out to begin anew"
T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    object: Literal["list"] = "list"
    data: list[T]
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page; null on the last one.")


@dataclass(frozen=True)
class Listing:
    """A list that is read in pages. key: what sorts the query's rows and names each of them."""

    query: Select[*tuple[Any, ...]]
    key: Sequence[Any]
    newest_first: bool = False
    complete: Callable[[FromClause], Select[*tuple[Any, ...]]] | None = None
    """What is read of a page's rows, where that is more than the query says: it costs nothing for other rows."""
    name: str | None = None
    """Of a query that is always the same but for what is `given`; its statements are made once."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Values of the query's own parameters."""

    def read(
        self, session: Session, after: Sequence[object] | None, limit: int
    ) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """(what the query selects, its key) of the rows behind the key `after`."""
        width = len(self.key)
        made = (self.name, after is not None)
        statement = _STATEMENTS.get(made)
        if statement is None:
            statement = self._statement(after is not None)
            if self.name is not None:
                _STATEMENTS[made] = statement
        behind = {f"page_after_{number}": value for number, value in enumerate(after or ())}
        rows = session.execute(statement, {**self.given, **behind, "page_rows": limit})
        return [(tuple(row[:-width]), tuple(row[-width:])) for row in rows]

    def _statement(self, goes_on: bool) -> Select[*tuple[Any, ...]]:
        """goes_on: behind a key, not from the start."""
        query, key = self.query, tuple_(*self.key)
        if goes_on:
            last = tuple_(*(bindparam(f"page_after_{i}", type_=each.type) for i, each in enumerate(self.key)))
            query = query.where(key < last if self.newest_first else key > last)
        query = self._in_order(query, self.key).limit(bindparam("page_rows", type_=Integer))
        if self.complete is None:
            return query.add_columns(*self.key)
        page = query.cte("page")
        key_of_page = [page.c[column.key] for column in self.key]
        return self._in_order(self.complete(page).add_columns(*key_of_page), key_of_page)

    def _in_order(self, query: Select[*tuple[Any, ...]], key: Sequence[Any]) -> Select[*tuple[Any, ...]]:
        return query.order_by(*(column.desc() if self.newest_first else column for column in key))


_STATEMENTS: Final[dict[tuple[str | None, bool], Select[*tuple[Any, ...]]]] = {}
"""By the name of a listing, and whether they go on behind a key."""


@dataclass(frozen=True)
class PageRequest:
    """Which page the caller wants."""

    limit: int
    cursor: str | None
    of: str = ""
    """Names the list with its filters."""

    def rows(self, session: Session, listing: Listing) -> tuple[list[tuple[Any, ...]], str | None]:
        """What the query selects of each row, and the next page's cursor. Raises Invalid for another list's."""
        after = decode_cursor(self.of, self.cursor, *(column.type.python_type for column in listing.key))
        found = listing.read(session, after, self.limit + 1)
        page = found[: self.limit]
        return [row for row, _ in page], encode_cursor(self.of, *page[-1][1]) if len(found) > len(page) else None

    def page(self, session: Session, listing: Listing, show: Callable[..., T]) -> Page[T]:
        """The same as an answer. show: makes a row's answer from what the query selects."""
        rows, following = self.rows(session, listing)
        return Page(data=[show(*row) for row in rows], next_cursor=following)


def paged(most: int, default: int) -> Callable[..., Awaitable[PageRequest]]:
    """The query parameters of a list whose pages have at the most `most` rows."""

    async def wanted(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=most, description="Rows a page has at the most.")] = default,
        cursor: Annotated[
            str | None, Query(max_length=1000, description="`next_cursor` of the page before; opaque.")
        ] = None,
    ) -> PageRequest:
        return PageRequest(limit, cursor, _list_of(request))

    return wanted


Paging = Annotated[PageRequest, Depends(paged(200, 50))]


def _list_of(request: Request) -> str:
    filters = sorted(pair for pair in request.query_params.multi_items() if pair[0] not in _NO_FILTERS)
    return hashlib.sha256(json.dumps([request.url.path, filters]).encode()).hexdigest()[:16]


def encode_cursor(of: str, *values: str | int | datetime) -> str:
    """An opaque text that names a row of a list by its sort key."""
    plain = [of, *(value.isoformat() if isinstance(value, datetime) else value for value in values)]
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode().rstrip("=")


def decode_cursor(of: str, text: str | None, *types: type) -> list[Any] | None:
    """The sort key of a list's cursor with exactly these types; None without one. Raises Invalid for any other
    text, and for another list's cursor."""
    if text is None:
        return None
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        named, *key = values if isinstance(values, list) and values else [None]
        if named == of:
            return [_typed(value, type) for value, type in zip(key, types, strict=True)]
    except (ValueError, binascii.Error, RecursionError):
        raise _refused("is not a cursor; pass `next_cursor` of the page before as it is") from None
    raise _refused(_OTHER_LIST)


def _refused(detail: str) -> Invalid:
    return Invalid(errors=[FieldError(detail, parameter="cursor")])


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
