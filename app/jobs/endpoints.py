"""/v1/jobs: submit, list, read. control_endpoints.py: what may be asked of a job; history.py: what it did."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from app.auth.dependencies import JobsRead, JobsWrite, KeyDigest
from app.backend import BackendDep, UnitOfWork, read_alone
from app.idempotency.once import ONCE, Once
from app.jobs import repository, submission
from app.jobs.documents import JOB, JSON, Snapshot, job_reply, page_body
from app.jobs.polling import Awaited, Poll
from app.jobs.repository import Filter
from app.jobs.schemas import JobRead
from app.jobs.service import InputRefused, JobNotFound, JobUnfinished
from app.kit.clock import Instant
from app.kit.conditions import CURRENT, IfNoneMatch
from app.kit.fields import JobId
from app.kit.headers import Sent, sends
from app.kit.json_body import StrictRoute
from app.kit.pagination import Page, PageRequest, Paging
from app.kit.problems import FieldError, Invalid, UnsupportedMediaType, problems
from app.kit.waiting import TooManyWaits
from app.lineage.continuation import LineageMismatch, NotContinuable
from app.quotas.catalogue import MAKING
from app.tables.states import State
from secateur.spec.job import JobRequest
from secateur.spec.method import MethodName

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)


Labels = Annotated[
    list[str] | None,
    Query(alias="label", max_length=16, description="`key=value`; may be repeated, then all must hold."),
]


@router.post(
    "",
    summary="Submit a job",
    status_code=201,
    response_model=JobRead,
    responses={
        201: sends(Sent.location, *JOB),
        **problems(
            InputRefused,
            *ONCE,
            *MAKING,
            UnsupportedMediaType,
            JobNotFound,
            JobUnfinished,
            NotContinuable,
            LineageMismatch,
        ),
    },
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
async def list_jobs(
    auth: JobsRead,
    backend: BackendDep,
    page: Paging,
    state: Annotated[list[State] | None, Query(description="May be repeated.")] = None,
    method: MethodName | None = None,
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
    states, labels = tuple(state or ()), tuple(_labels(label))
    filter = Filter(states, method, model, labels, created_after, created_before, continues, lineage)
    return Response(await read_alone(backend, partial(_page, page, auth.project, filter)), media_type=JSON)


@router.get(
    "/{id}",
    summary="Read a job, or wait for its next change",
    response_model=JobRead,
    responses={
        200: sends(*JOB),
        304: sends(*JOB, description=CURRENT),
        **problems(JobNotFound, TooManyWaits),
    },
)
async def get_job(
    id: JobId,
    request: Request,
    digest: KeyDigest,
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
    return await Poll(backend, request, digest, id, if_none_match, until).answer(wait)


def _page(page: PageRequest, project: str, filter: Filter, session: Session) -> bytes:
    rows, following = page.rows(session, repository.listing(project, filter))
    return page_body([Snapshot.of(row) for row in rows], following)


def _made(snapshot: Snapshot) -> Response:
    return job_reply(snapshot, 201, {"Location": f"/v1/jobs/{snapshot.job['id']}"})


def _labels(given: list[str] | None) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in given or ()]
    if any(not separator or not key for key, separator, _ in pairs):
        raise Invalid(errors=[FieldError("must look like key=value", parameter="label")])
    return [(key, value) for key, _, value in pairs]
