"""What a history can be asked for: query parameters that every call with one shares."""

from typing import Annotated

from fastapi import Depends, Query

from app.kit.pagination import CursorText, decode_cursor

Rows = Annotated[int, Query(ge=1, le=1000, description="Rows a page has at the most.")]
Number = Annotated[int | None, Query(ge=0, lt=2**31)]


async def _position(
    after: Annotated[int, Query(ge=0, lt=2**31, description="Only what is numbered above.")] = 0,
    cursor: CursorText = None,
) -> int:
    """Where a page of numbered rows begins: a cursor goes before `after`."""
    decoded = decode_cursor(cursor, int)
    return int(decoded[0]) if decoded is not None else after


Position = Annotated[int, Depends(_position)]
MatrixName = Annotated[
    str | None, Query(max_length=300, description="Name in the checkpoint, or a glob with `*` and `?`.")
]
StageNumber = Annotated[
    int | None, Query(ge=0, lt=2**31, description="The job's own, or with `lineage` the lineage's.")
]
DomainName = Annotated[str | None, Query(max_length=200)]
WholeLineage = Annotated[bool, Query(description="Also the stages of the jobs that this one goes on from.")]
