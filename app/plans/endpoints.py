"""/v1/plans"""

from contextlib import suppress
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.auth.dependencies import JobsRead, JobsWrite
from app.auth.service import Principal
from app.backend import Backend, BackendDep, UnitOfWork
from app.idempotency.once import ONCE, Once
from app.jobs.service import InputRefused, JobNotFound, JobUnfinished
from app.kit.clock import Instant
from app.kit.headers import Sent, sends
from app.kit.json_body import StrictRoute
from app.kit.pagination import Page, Paging
from app.kit.problems import UnsupportedMediaType, problems
from app.kit.replies import reply
from app.kit.waiting import MAX_WAIT, Hold, Holder, Mark, TooManyWaits, Wanted
from app.lineage.continuation import LineageMismatch, NotContinuable
from app.plans import repository, service
from app.plans.repository import Filter
from app.plans.schemas import PlanLineRead, PlanRead
from app.plans.service import PlanNotFound
from app.quotas.catalogue import MAKING
from app.tables.datasets import IntakeState
from secateur.spec.job import JobContinue, JobCreate, JobRequest
from secateur.spec.method import MethodName

router = APIRouter(prefix="/v1/plans", tags=["plans"], route_class=StrictRoute)

_RETRY_AFTER: Final = {"Retry-After": "1"}

PlanId = Annotated[str, Path(description="`pln_…`", max_length=100)]
Wait = Annotated[float, Query(ge=0, le=3600, description="Seconds to wait for the plan, at most 60.")]


@router.post(
    "",
    summary="Plan a job without running it",
    status_code=202,
    response_model=PlanRead,
    responses={
        200: {"model": PlanRead, "description": "It was made, or failed, while the call waited"},
        202: sends(Sent.retry_after),
        **problems(
            InputRefused,
            UnsupportedMediaType,
            JobNotFound,
            JobUnfinished,
            NotContinuable,
            LineageMismatch,
            *ONCE,
            *MAKING,
        ),
    },
)
async def create_plan(
    body: JobRequest,
    request: Request,
    auth: JobsWrite,
    session: UnitOfWork,
    backend: BackendDep,
    once: Once,
    wait: Wait = 0,
) -> Response:
    """The body is a job's. The CPU queue looks at the model's graph, never at weights or text, and says what
    would be pruned how, what stays and why, the exact budget, and estimates of memory, disk and time. A job that
    could not run becomes a `failed` plan with the `error` that it would have met. Plans are kept for a day."""
    if wait > 0:
        once.stay_open(min(wait, MAX_WAIT))
    asked: list[PlanRead] = []
    answer = await once.run(lambda: _ask(session, auth.project, body, backend.settings.plan_hours, asked))
    if wait > 0 and asked:
        with suppress(TooManyWaits):  # it is made, and whoever may not wait for it can ask for it
            answer = _made(await _poll(backend, request, auth, asked[0].id, wait))
        await run_in_threadpool(once.close, answer)
    return answer


@router.get(
    "",
    summary="List plans, newest first",
    response_model=Page[PlanLineRead],
    responses=problems(),
)
def list_plans(
    auth: JobsRead,
    session: UnitOfWork,
    backend: BackendDep,
    page: Paging,
    state: Annotated[list[IntakeState] | None, Query(description="May be repeated.")] = None,
    model: Annotated[str | None, Query(max_length=100, description="`mdl_…`")] = None,
    method: Annotated[MethodName | None, Query()] = None,
    created_after: Instant | None = None,
    created_before: Instant | None = None,
) -> Response:
    """One page of the project's plans of the last day, without their matrices; all filters must hold."""
    filter = Filter(state or (), model, method, created_after, created_before)
    hours = backend.settings.plan_hours
    show = partial(PlanLineRead.of, hours=hours)
    return reply(page.page(session, repository.listing(auth.project, filter), show))


@router.get(
    "/{id}",
    summary="Read a plan, or wait for it",
    response_model=PlanRead,
    responses={200: sends(Sent.retry_after), **problems(PlanNotFound, TooManyWaits)},
)
async def get_plan(id: PlanId, request: Request, auth: JobsRead, backend: BackendDep, wait: Wait = 0) -> Response:
    """`state` is pending until the CPU queue has made it; a failed one says why in `error`."""
    plan = await _poll(backend, request, auth, id, wait)
    return reply(plan, headers=_RETRY_AFTER if plan.state is IntakeState.pending else None)


def _ask(
    session: Session, project: str, body: JobCreate | JobContinue, hours: float, asked: list[PlanRead]
) -> Response:
    """asked: takes the plan, when this was not a repetition."""
    plan = PlanRead.of(service.ask(session, project, body), hours)
    asked.append(plan)
    return _made(plan)


def _made(plan: PlanRead) -> Response:
    location = {"Location": f"/v1/plans/{plan.id}"}
    if plan.state is IntakeState.pending:
        return reply(plan, 202, location | _RETRY_AFTER)
    return reply(plan, 200, location)


async def _poll(backend: Backend, request: Request, auth: Principal, id: str, wait: float) -> PlanRead:
    """The plan, waited for until it is no longer pending."""
    look = partial(run_in_threadpool, _look, backend, auth.project, id)
    return await Hold(backend.watcher, request, Holder(auth.project, auth.key), wait).answer(
        repository.PROBE, id, look
    )


def _look(backend: Backend, project: str, id: str) -> tuple[PlanRead, Wanted | None]:
    """The plan, and what is waited for while it is pending."""
    with backend.sessions.begin() as session:
        plan = service.read(session, project, id, backend.settings.plan_hours)
    return plan, _no_longer_pending if plan.state is IntakeState.pending else None


def _no_longer_pending(mark: Mark | None) -> bool:
    return mark is None or mark[0] != IntakeState.pending
