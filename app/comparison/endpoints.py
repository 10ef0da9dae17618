"""/v1/jobs/{id}/compare/{other}"""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from app.auth.dependencies import JobsRead
from app.backend import UnitOfWork
from app.comparison import service
from app.comparison.schemas import ComparisonRead
from app.comparison.service import NotComparable, Wanted
from app.history.query import MatrixName, Number, Records
from app.jobs import service as jobs
from app.jobs.service import JobNotFound
from app.kit.fields import JobId
from app.kit.problems import problems
from app.kit.replies import reply

router = APIRouter(prefix="/v1/jobs/{id}/compare", tags=["history"])

Part = Annotated[
    Literal["evaluation", "history"] | None,
    Query(description="`evaluation` (the perplexities) or `history` (the matrices) alone; both by default."),
]
Stage = Annotated[
    int | None,
    Query(ge=0, lt=2**31, description="Of this job, for the history; its last finished one by default."),
]


@router.get(
    "/{other}",
    summary="Two jobs side by side",
    response_model=ComparisonRead,
    responses=problems(JobNotFound, NotComparable),
)
def compare_jobs(
    id: JobId,
    other: JobId,
    auth: JobsRead,
    session: UnitOfWork,
    page: Records,
    part: Part = None,
    stage: Stage = None,
    other_stage: Number = None,
    matrix: MatrixName = None,
) -> Response:
    """Perplexities compare under equal protocols only (text, tokenizer, windows, dtype), matrices on equal models
    only; else 409 names what differs. Differences are the other's figure minus this one's."""
    one, _ = jobs.read(session, auth.project, id)
    two, _ = jobs.read(session, auth.project, other)
    wanted = Wanted(stage, other_stage, matrix, page)
    body = ComparisonRead(
        job=id,
        other=other,
        evaluation=service.compare_evaluations(session, one, two) if part != "history" else None,
        history=service.compare_histories(session, one, two, wanted) if part != "evaluation" else None,
    )
    return reply(body)
