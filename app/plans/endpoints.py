"""/v1/plans"""

import asyncio
import time
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.auth.dependencies import JobsRead, JobsWrite
from app.backend import Backend, BackendDep
from app.jobs.service import InputRefused, JobNotFound, JobUnfinished
from app.kit.json_body import StrictRoute
from app.kit.problems import UnsupportedMediaType, problems
from app.kit.replies import reply
from app.lineage.continuation import LineageMismatch, NotContinuable
from app.plans import service
from app.plans.schemas import PlanRead
from app.plans.service import PlanNotFound
from app.tables.datasets import IntakeState
from secateur.spec.job import JobContinue, JobCreate, JobRequest

router = APIRouter(prefix="/v1/plans", tags=["plans"], route_class=StrictRoute)

MAX_WAIT: Final = 60.0
_LOOK_SECONDS: Final = 0.25
_RETRY_AFTER: Final = {"Retry-After": "1"}

PlanId = Annotated[str, Path(description="`pln_…`", max_length=100)]
Wait = Annotated[float, Query(ge=0, le=3600, description="Seconds to wait for the plan, at most 60.")]


@router.post(
    "",
    operation_id="create_plan",
    summary="Plan a job without running it",
    status_code=202,
    response_model=PlanRead,
    responses={
        200: {"model": PlanRead, "description": "It was made, or failed, while the call waited"},
        **problems(
            InputRefused, UnsupportedMediaType, JobNotFound, JobUnfinished, NotContinuable, LineageMismatch
        ),
    },
)
async def create_plan(
    body: JobRequest, request: Request, auth: JobsWrite, backend: BackendDep, wait: Wait = 0
) -> Response:
    """The body is a job's. The CPU queue looks at the model's graph, never at weights or text, and says what
    would be pruned how, what stays and why, the exact budget, and estimates of memory, disk and time. A job that
    could not run becomes a `failed` plan with the `error` that it would have met. Plans are kept for a day."""
    plan = await run_in_threadpool(_ask, backend, auth.project, body)
    location = {"Location": f"/v1/plans/{plan.id}"}
    plan = await _settled(backend, auth.project, plan, request, wait)
    if plan.state is IntakeState.pending:
        return reply(plan, 202, location | _RETRY_AFTER)
    return reply(plan, 200, location)


@router.get(
    "/{id}",
    operation_id="get_plan",
    summary="Read a plan, or wait for it",
    response_model=PlanRead,
    responses=problems(PlanNotFound),
)
async def get_plan(id: PlanId, request: Request, auth: JobsRead, backend: BackendDep, wait: Wait = 0) -> Response:
    """`state` is pending until the CPU queue has made it; a failed one says why in `error`."""
    plan = await run_in_threadpool(_look, backend, auth.project, id)
    plan = await _settled(backend, auth.project, plan, request, wait)
    return reply(plan, headers=_RETRY_AFTER if plan.state is IntakeState.pending else None)


async def _settled(backend: Backend, project: str, plan: PlanRead, request: Request, wait: float) -> PlanRead:
    """The plan when it is no longer pending, or as it is when the time is over. Holds no connection meanwhile."""
    deadline = time.monotonic() + min(wait, MAX_WAIT)
    while plan.state is IntakeState.pending:
        left = deadline - time.monotonic()
        if left <= 0 or await request.is_disconnected():
            break
        await asyncio.sleep(min(_LOOK_SECONDS, left))
        plan = await run_in_threadpool(_look, backend, project, plan.id)
    return plan


def _ask(backend: Backend, project: str, body: JobCreate | JobContinue) -> PlanRead:
    with backend.sessions.begin() as session:
        return PlanRead.of(service.ask(session, project, body), backend.settings.plan_hours)


def _look(backend: Backend, project: str, id: str) -> PlanRead:
    with backend.sessions.begin() as session:
        return PlanRead.of(service.read(session, project, id), backend.settings.plan_hours)
