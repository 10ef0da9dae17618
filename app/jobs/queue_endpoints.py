"""/v1/jobs/{id}/queue: a job's place in the queue."""

from fastapi import APIRouter, Response

from app.auth.dependencies import JobsRead
from app.backend import BackendDep, UnitOfWork
from app.jobs.queue import QueuePlace, queue_place
from app.jobs.service import JobNotFound
from app.kit.fields import JobId
from app.kit.problems import problems
from app.kit.replies import reply

router = APIRouter(prefix="/v1/jobs/{id}", tags=["jobs"])


@router.get(
    "/queue",
    summary="A job's place in the queue",
    response_model=QueuePlace,
    responses=problems(JobNotFound),
)
def get_queue_place(id: JobId, auth: JobsRead, session: UnitOfWork, backend: BackendDep) -> Response:
    """How many jobs would be started before it, and what it waits for: its model or a dataset, the pause after a
    failed attempt, its project's quota, other jobs, or a free worker. Of a job that is not queued it has only the
    state."""
    return reply(queue_place(session, auth.project, id, backend.settings))
