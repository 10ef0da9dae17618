"""How a history is read in pieces."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy.orm import Session, sessionmaker

from app.history import sensitivity_repository
from app.history.sensitivity_repository import Filter, Record
from app.jobs.repository import Part

RECORDS: Final = 1000
"""Rows read at once by an export: what it holds in memory."""


def records(sessions: sessionmaker[Session], parts: list[Part], filter: Filter) -> Iterator[list[Record]]:
    """The whole history in pieces, in order; no connection is held while the reader takes his time.

    Stage by stage, so that a piece costs as much in a long lineage as in a short one.
    """
    with sessions.begin() as session:
        places = sensitivity_repository.list_stages(session, parts, filter)
    for part, stage in places:
        yield from _records_of(sessions, part, replace(filter, stage=stage, lineage=False))


def _records_of(sessions: sessionmaker[Session], part: Part, filter: Filter) -> Iterator[list[Record]]:
    after: Sequence[object] | None = None
    while True:
        with sessions.begin() as session:
            found, after = sensitivity_repository.list_records(session, [part], filter, after, RECORDS)
        if found:
            yield found
        if len(found) < RECORDS:
            return
