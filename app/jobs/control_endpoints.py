"""/v1/jobs/{id}: cancel, pause, resume, retry, change, delete."""

from typing import Final

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from app.auth.dependencies import JobsWrite
from app.backend import UnitOfWork
from app.idempotency.once import ONCE, Once
from app.jobs import control, repository, retries
from app.jobs.control import JobCancelling, LineageAlive
from app.jobs.documents import JOB, job_reply
from app.jobs.repository import Found
from app.jobs.retries import GateMissed, InputsChanged, JobSucceeded
from app.jobs.schemas import JobPatch, JobRead
from app.jobs.service import InputRefused, JobFinished, JobNotFound, JobUnfinished
from app.kit.conditions import IfMatch
from app.kit.fields import JobId
from app.kit.headers import Sent, sends
from app.kit.json_body import StrictRoute
from app.kit.problems import PreconditionFailed, UnsupportedMediaType, problems
from app.quotas.catalogue import MAKING

router = APIRouter(prefix="/v1/jobs/{id}", tags=["jobs"], route_class=StrictRoute)

_RETRIED: Final = "It was retried already; this is the job that was made then"


@router.post(
    "/cancel",
    summary="Cancel a job",
    status_code=202,
    response_model=JobRead,
    responses={
        200: {"model": JobRead, **sends(*JOB, description="It was cancelled already")},
        202: sends(*JOB),
        **problems(JobNotFound, JobFinished),
    },
)
def cancel_job(id: JobId, auth: JobsWrite, session: UnitOfWork) -> Response:
    """A waiting job ends at once; a running one is `cancelling` until its worker has stopped. May be repeated."""
    found, pending = control.cancel(session, auth.project, id)
    return _reply(session, found, 202 if pending else 200)


@router.post(
    "/pause",
    summary="Pause a job",
    status_code=202,
    response_model=JobRead,
    responses={
        200: {"model": JobRead, **sends(*JOB, description="It was paused already")},
        202: sends(*JOB),
        **problems(JobNotFound, JobFinished, JobCancelling),
    },
)
def pause_job(id: JobId, auth: JobsWrite, session: UnitOfWork) -> Response:
    """A waiting job leaves the queue at once; a running one is `pausing` until its current block is finished,
    or until the service's deadline for that, after which what was not finished is dropped. A paused job holds no
    worker and its time does not count. May be repeated."""
    found, pending = control.pause(session, auth.project, id)
    return _reply(session, found, 202 if pending else 200)


@router.post(
    "/resume",
    summary="Resume a paused job",
    status_code=202,
    response_model=JobRead,
    responses={
        200: {"model": JobRead, **sends(*JOB, description="It was not paused")},
        202: sends(*JOB),
        **problems(JobNotFound, JobFinished, JobCancelling),
    },
)
def resume_job(id: JobId, auth: JobsWrite, session: UnitOfWork) -> Response:
    """The job is queued at its old place and goes on behind its last finished block. May be repeated."""
    found, pending = control.resume(session, auth.project, id)
    return _reply(session, found, 202 if pending else 200)


@router.post(
    "/retry",
    summary="Go on with a failed or cancelled job",
    status_code=201,
    response_model=JobRead,
    responses={
        200: {"model": JobRead, **sends(*JOB, Sent.location, description=_RETRIED)},
        201: sends(*JOB, Sent.location),
        **problems(
            JobNotFound,
            JobUnfinished,
            JobSucceeded,
            GateMissed,
            InputRefused,
            InputsChanged,
            *ONCE,
            *MAKING,
        ),
    },
)
async def retry_job(id: JobId, auth: JobsWrite, session: UnitOfWork, once: Once) -> Response:
    """Makes a new job (`retry_of`) with the same spec, which starts behind the last finished block of this one.
    A job is retried once: asked again, the answer is the same new job; to try once more, retry that."""
    return await once.run(lambda: _retried(session, *retries.retry(session, auth.project, id)))


@router.patch(
    "",
    summary="Change a job's labels, priority or limits",
    response_model=JobRead,
    responses={200: sends(*JOB), **problems(JobNotFound, JobFinished, PreconditionFailed, UnsupportedMediaType)},
)
def change_job(
    id: JobId, body: JobPatch, auth: JobsWrite, session: UnitOfWork, if_match: IfMatch = None
) -> Response:
    """Labels can always be changed; priority and limits until the job has finished. With `If-Match` nothing is
    changed that the caller has not seen (mere progress does not count)."""
    return _reply(session, control.change(session, auth.project, id, body, if_match), 200)


@router.delete(
    "",
    summary="Delete a finished job and its files",
    status_code=204,
    response_class=Response,
    responses=problems(JobNotFound, JobUnfinished, LineageAlive),
)
def delete_job(id: JobId, auth: JobsWrite, session: UnitOfWork) -> Response:
    """With its history, checkpoint and artifact; the files leave the store within minutes. What a retry of it has
    taken over stays with the retry. A job that another one continues cannot be deleted before that one."""
    control.delete(session, auth.project, id)
    return Response(status_code=204)


def _retried(session: Session, found: Found, made: bool) -> Response:
    return _reply(session, found, 201 if made else 200, {"Location": f"/v1/jobs/{found[0].id}"})


def _reply(session: Session, found: Found, status: int, headers: dict[str, str] | None = None) -> Response:
    return job_reply(repository.snapshot(session, found[0].id), status, headers)
