"""What a history can be asked for: query parameters that every call with one shares."""

from typing import Annotated

from fastapi import Depends, Query

from app.kit.pagination import PageRequest, paged

Lines = Annotated[PageRequest, Depends(paged(1000, 100))]
Records = Annotated[PageRequest, Depends(paged(1000, 200))]
Number = Annotated[int | None, Query(ge=0, lt=2**31)]


async def _position(
    page: Lines, after: Annotated[int, Query(ge=0, lt=2**31, description="Only what is numbered above.")] = 0
) -> int:
    """Where a list of numbered rows begins: a cursor goes before `after`."""
    return after if page.cursor is None else 0


Wait = Annotated[
    float,
    Query(ge=0, le=3600, description="Seconds, at most 60, that an empty page waits for the job's next row."),
]
Position = Annotated[int, Depends(_position)]
MatrixName = Annotated[
    str | None, Query(max_length=300, description="Name in the checkpoint, or a glob with `*` and `?`.")
]
StageNumber = Annotated[
    int | None, Query(ge=0, lt=2**31, description="The job's own, or with `lineage` the lineage's.")
]
DomainName = Annotated[str | None, Query(max_length=200)]
WholeLineage = Annotated[bool, Query(description="Also the stages of the jobs that this one continues.")]
