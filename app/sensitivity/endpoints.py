"""/v1/jobs/{id}/sensitivity"""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.auth.dependencies import JobsRead
from app.backend import UnitOfWork
from app.jobs import service as jobs
from app.jobs.history import MatrixName, Number, Rows
from app.jobs.service import JobNotFound
from app.kit.fields import JobId
from app.kit.pagination import CursorText, Page, decode_cursor, encode_cursor, page_of
from app.kit.problems import problems
from app.kit.replies import reply
from app.sensitivity import repository
from app.sensitivity.repository import Filter
from app.sensitivity.schemas import SensitivityRead

router = APIRouter(prefix="/v1/jobs/{id}/sensitivity", tags=["history"])


@router.get(
    "",
    operation_id="list_sensitivities",
    summary="How important each matrix's weights were to each domain",
    response_model=Page[SensitivityRead],
    responses=problems(JobNotFound),
)
def list_sensitivities(
    id: JobId,
    auth: JobsRead,
    session: UnitOfWork,
    stage: Number = None,
    domain: Annotated[str | None, Query(max_length=200)] = None,
    block: Number = None,
    matrix: MatrixName = None,
    limit: Rows = 200,
    cursor: CursorText = None,
) -> Response:
    """Mean, quantiles and histogram of the scores that chose the mask, by stage, block and name; there while the
    job runs. The scores themselves are in the artifact's state files."""
    jobs.read(session, auth.project, id)
    after = decode_cursor(cursor, int, int, str)
    filter = Filter(stage, domain, block, matrix)
    rows, more = page_of(repository.list_page(session, id, filter, after, limit + 1), limit)
    data = [SensitivityRead.model_validate(row) for row in rows]
    following = encode_cursor(data[-1].stage, data[-1].block, data[-1].matrix) if more else None
    return reply(Page[SensitivityRead](data=data, next_cursor=following))
