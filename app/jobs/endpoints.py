"""/v1/jobs: submit, list, read. control_endpoints.py: what may be asked of a job; history.py: what it did."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.auth.dependencies import JobsRead, JobsWrite
from app.backend import Backend, BackendDep, UnitOfWork
from app.idempotency.once import ONCE, Once
from app.jobs import repository, service, submission
from app.jobs.repository import Filter
from app.jobs.schemas import JobRead, etag, retry_after, states_of
from app.jobs.service import InputRefused, JobNotFound, JobUnfinished
from app.kit.clock import Instant
from app.kit.conditions import IfNoneMatch, none_match
from app.kit.fields import JobId
from app.kit.json_body import StrictRoute
from app.kit.pagination import Page, Paging
from app.kit.problems import FieldError, Invalid, UnsupportedMediaType, problems
from app.kit.replies import reply
from app.kit.waiting import Hold, Mark, TooManyWaits, Wanted
from app.lineage.continuation import LineageMismatch, NotContinuable
from app.tables.jobs import Job
from app.tables.states import TERMINAL, State
from secateur.spec.job import JobRequest

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)


Labels = Annotated[
    list[str] | None,
    Query(alias="label", max_length=16, description="`key=value`; may be repeated, then all must hold."),
]


class Awaited(StrEnum):
    """What a waiting call waits for."""

    change = "change"
    state = "state"
    end = "end"


@router.post(
    "",
    summary="Submit a job",
    status_code=201,
    response_model=JobRead,
    responses=problems(
        InputRefused,
        *ONCE,
        UnsupportedMediaType,
        JobNotFound,
        JobUnfinished,
        NotContinuable,
        LineageMismatch,
    ),
)
async def create_job(body: JobRequest, auth: JobsWrite, session: UnitOfWork, once: Once) -> Response:
    """The job starts when its model and datasets are ready and a worker is free. With `continues` it takes up
    another job's final state: only `domains` (new ones) is needed, and what is left out of model, method,
    sparsity, evaluation, output and gate is that job's; limits, priority, labels and each domain's calibration
    are not inherited."""
    return await once.run(lambda: _made(submission.submit(session, auth.project, body)))


@router.get(
    "",
    summary="List jobs, newest first",
    response_model=Page[JobRead],
    responses=problems(),
)
def list_jobs(
    auth: JobsRead,
    session: UnitOfWork,
    page: Paging,
    state: Annotated[list[State] | None, Query(description="May be repeated.")] = None,
    method: Annotated[str | None, Query(max_length=40)] = None,
    model: Annotated[str | None, Query(max_length=100, description="`mdl_…`")] = None,
    label: Labels = None,
    created_after: Instant | None = None,
    created_before: Instant | None = None,
    continues: Annotated[str | None, Query(max_length=100, description="`job_…`: those that continue it.")] = None,
    lineage: Annotated[
        str | None,
        Query(max_length=100, description="`job_…`: the first job of a lineage; with all its branches."),
    ] = None,
) -> Response:
    """One page of the project's jobs; all filters must hold."""
    filter = Filter(state or (), method, model, _labels(label), created_after, created_before, continues, lineage)
    return reply(page.page(session, repository.listing(auth.project, filter), JobRead.of))


@router.get(
    "/{id}",
    summary="Read a job, or wait for its next change",
    response_model=JobRead,
    responses={304: {"description": "The caller's ETag is current"}, **problems(JobNotFound, TooManyWaits)},
)
async def get_job(
    id: JobId,
    request: Request,
    auth: JobsRead,
    backend: BackendDep,
    if_none_match: IfNoneMatch = None,
    wait: Annotated[
        float,
        Query(ge=0, le=3600, description="Seconds to wait, at most 60, for what `for` says."),
    ] = 0,
    until: Annotated[
        Awaited | None,
        Query(
            alias="for",
            description="What to wait for: a `change` of anything in the answer, of the `state` alone, or the "
            "`end`. With If-None-Match a change since that tag, else since now. By default a change with "
            "If-None-Match, and the end without it.",
        ),
    ] = None,
) -> Response:
    """`ETag` changes with everything in the answer; `Retry-After` says when to ask again. Neither is there any
    cost in asking often with `If-None-Match`, nor does a waiting call hold a connection to the database."""
    awaited = until or (Awaited.end if if_none_match is None else Awaited.change)
    look = partial(run_in_threadpool, _look, backend, auth.project, id, if_none_match, awaited)
    return await Hold(backend.watcher, request, auth.key, wait).answer(repository.PROBE, id, look)


def _made(job: Job) -> Response:
    return reply(JobRead.of(job, None), 201, {"Location": f"/v1/jobs/{job.id}"})


def _look(
    backend: Backend, project: str, id: str, if_none_match: str | None, awaited: Awaited
) -> tuple[Response, Wanted | None]:
    """The answer as of now, and what a caller still waits for."""
    with backend.sessions.begin() as session:
        job, progress = service.read(session, project, id)
        body = JobRead.of(job, progress)
    tag, pause, known = (
        etag(job, progress),
        retry_after(job),
        (job.version, progress.version if progress else None),
    )
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if pause is not None:
        headers["Retry-After"] = str(pause)
    changed = none_match(if_none_match, tag)
    answer = reply(body, headers=headers) if changed else Response(status_code=304, headers=headers)
    if pause is None or (if_none_match is not None and _is_news(awaited, changed, job.state, if_none_match)):
        return answer, None
    return answer, _WANTED[awaited](known, job.state)


def _is_news(awaited: Awaited, changed: bool, state: str, header: str) -> bool:
    """Whether the caller, who knows what his tags say, has already been waiting for this."""
    return {Awaited.change: changed, Awaited.state: state not in states_of(header), Awaited.end: False}[awaited]


_WANTED: Final[dict[Awaited, Callable[[Mark, str], Wanted]]] = {
    Awaited.change: lambda known, _: lambda mark: mark is None or mark[:2] != known,
    Awaited.state: lambda _, state: lambda mark: mark is None or mark[2] != state,
    Awaited.end: lambda *_: lambda mark: mark is None or mark[2] in TERMINAL,
}


def _labels(given: list[str] | None) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in given or ()]
    if any(not separator or not key for key, separator, _ in pairs):
        raise Invalid(errors=[FieldError("must look like key=value", parameter="label")])
    return [(key, value) for key, _, value in pairs]
