"""/v1/jobs/{id}/logs/tail: the last lines first."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.auth.dependencies import JobsRead
from app.backend import UnitOfWork
from app.jobs import repository, service
from app.jobs.schemas import LogRead
from app.jobs.service import JobNotFound
from app.kit.fields import JobId
from app.kit.pagination import CursorText, Page, decode_cursor, encode_cursor, page_of
from app.kit.problems import problems
from app.kit.replies import reply

router = APIRouter(prefix="/v1/jobs/{id}/logs/tail", tags=["history"])

Rows = Annotated[int, Query(ge=1, le=1000, description="Rows a page has at the most.")]


@router.get(
    "",
    operation_id="list_last_logs",
    summary="What the engine printed last",
    response_model=Page[LogRead],
    responses=problems(JobNotFound),
)
def list_last_logs(
    id: JobId, auth: JobsRead, session: UnitOfWork, limit: Rows = 100, cursor: CursorText = None
) -> Response:
    """Lines of all attempts, newest first; to follow them, go on with `logs?after=` and the highest `seq`."""
    service.read(session, auth.project, id)
    decoded = decode_cursor(cursor, int)
    before = int(decoded[0]) if decoded is not None else None
    rows, more = page_of(repository.last_logs(session, id, before, limit + 1), limit)
    data = [LogRead.model_validate(row) for row in rows]
    return reply(Page[LogRead](data=data, next_cursor=encode_cursor(data[-1].seq) if more else None))
