"""/v1/jobs/{id}/…: what a job did, for reading only."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from app.auth.dependencies import JobsRead, KeyDigest
from app.backend import BackendDep, UnitOfWork
from app.history.evaluation import evaluation_of
from app.history.feeds import EVENTS, LOGS, Reader
from app.history.query import (
    DomainName,
    Lines,
    MatrixName,
    Number,
    Position,
    Records,
    StageNumber,
    Wait,
    WholeLineage,
)
from app.history.streaming import MEDIA_TYPE, LastEventId, position, wants_stream
from app.jobs import repository, service
from app.jobs.repository import HistoryFilter
from app.jobs.schemas import AttemptRead, EvaluationRead, EventRead, LogRead, MatrixRead, StageRead
from app.jobs.service import JobNotFound
from app.kit.fields import JobId
from app.kit.pagination import Page, PageRequest
from app.kit.problems import FieldError, Invalid, problems
from app.kit.replies import reply
from app.kit.waiting import Holder, TooManyWaits
from app.tables.jobs import JobMatrix

router = APIRouter(prefix="/v1/jobs/{id}", tags=["history"])


_STREAMED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "A page, or a stream"},
    204: {"description": "Of a stream: the job has ended, and the caller has read all of it"},
    **problems(JobNotFound, TooManyWaits),
}


@router.get(
    "/events",
    summary="A job's history, as pages or as a stream",
    response_model=Page[EventRead],
    responses=_STREAMED,
)
async def list_events(
    id: JobId,
    request: Request,
    auth: JobsRead,
    digest: KeyDigest,
    backend: BackendDep,
    after: Position,
    page: Lines,
    wait: Wait = 0,
    last_event_id: LastEventId = None,
) -> Response:
    """Numbered without gaps: whoever has read up to n asks for `after=n` and misses nothing. With `wait` an empty
    page waits for the next event while the job goes on.

    With `Accept: text/event-stream` the same as server-sent events: `id` is the number, `event` the type, `data`
    the event as in a page. The stream ends after the last event of a finished job; asked again behind that
    (`Last-Event-ID`, or `after`), the answer is 204."""
    return await _read(
        Reader(backend, request, EVENTS, id, Holder(auth.project, auth.key), digest),
        after,
        page,
        wait,
        last_event_id,
    )


@router.get(
    "/logs",
    summary="What the engine printed, as pages or as a stream",
    response_model=Page[LogRead],
    responses=_STREAMED,
)
async def list_logs(
    id: JobId,
    request: Request,
    auth: JobsRead,
    digest: KeyDigest,
    backend: BackendDep,
    after: Position,
    page: Lines,
    wait: Wait = 0,
    last_event_id: LastEventId = None,
) -> Response:
    """Lines of all attempts, oldest first; paths of the worker are hidden. `wait` and `Accept: text/event-stream`
    are as for events; every message's `event` is `log`."""
    return await _read(
        Reader(backend, request, LOGS, id, Holder(auth.project, auth.key), digest),
        after,
        page,
        wait,
        last_event_id,
    )


async def _read(reader: Reader, after: int, page: PageRequest, wait: float, last_event_id: str | None) -> Response:
    if not wants_stream(reader.request):
        return await reader.page(after, page, wait)
    if page.cursor is not None:
        raise Invalid(errors=[FieldError("is of pages; a stream begins behind `after`", parameter="cursor")])
    return await reader.stream(position(last_event_id, after), page.limit)


@router.get(
    "/attempts",
    summary="Which workers tried",
    response_model=Page[AttemptRead],
    responses=problems(JobNotFound),
)
def list_attempts(id: JobId, auth: JobsRead, session: UnitOfWork) -> Response:
    """All of them, with how each ended."""
    service.read(session, auth.project, id)
    data = [AttemptRead.model_validate(row) for row in repository.attempts(session, id)]
    return reply(Page(data=data, next_cursor=None))


@router.get(
    "/stages",
    summary="The domains' turns",
    response_model=Page[StageRead],
    responses=problems(JobNotFound),
)
def list_stages(id: JobId, auth: JobsRead, session: UnitOfWork) -> Response:
    """One stage a domain, in order; `blocks_done` of its blocks are safe in the store."""
    job, _ = service.read(session, auth.project, id)
    data = [
        StageRead.model_validate(
            {**_columns(stage), "blocks_done": done, "lineage_stage": job.first_stage + stage.stage}
        )
        for stage, done in repository.stages(session, id)
    ]
    return reply(Page(data=data, next_cursor=None))


@router.get(
    "/evaluation",
    summary="Perplexity of every domain after every stage",
    response_model=EvaluationRead,
    responses=problems(JobNotFound),
)
def get_evaluation(id: JobId, auth: JobsRead, session: UnitOfWork) -> Response:
    """The matrix R as far as it is known; complete when the job has succeeded. Of a continuation it is the whole
    lineage's: it begins with the rows of the job before."""
    job, _ = service.read(session, auth.project, id)
    return reply(evaluation_of(session, job))


@router.get(
    "/matrices",
    summary="What happened to each matrix",
    response_model=Page[MatrixRead],
    responses=problems(JobNotFound),
)
def list_matrices(
    id: JobId,
    auth: JobsRead,
    session: UnitOfWork,
    page: Records,
    stage: StageNumber = None,
    domain: DomainName = None,
    block: Number = None,
    matrix: MatrixName = None,
    lineage: WholeLineage = False,
) -> Response:
    """One record a matrix and stage, in the order of stage, block and name; there while the job runs."""
    filter = HistoryFilter(stage, domain, block, matrix, lineage)
    parts = service.parts_of(session, auth.project, id, lineage=lineage)
    return reply(page.page(session, repository.matrices(parts, filter), _record))


def _record(row: JobMatrix, domain: str, lineage_stage: int) -> MatrixRead:
    fields = {"job": row.job_id, "domain": domain, "lineage_stage": lineage_stage}
    return MatrixRead.model_validate(_columns(row) | fields)


def _columns(row: object) -> dict[str, object]:
    return {name: value for name, value in vars(row).items() if not name.startswith("_")}


@router.get(
    "/logs/tail",
    summary="What the engine printed last",
    response_model=Page[LogRead],
    responses=problems(JobNotFound),
)
def list_last_logs(id: JobId, auth: JobsRead, session: UnitOfWork, page: Lines) -> Response:
    """Lines of all attempts, newest first; to follow them, go on with `logs?after=` and the highest `seq`."""
    service.read(session, auth.project, id)
    return reply(page.page(session, repository.logs(id, newest_first=True), LogRead.model_validate))
