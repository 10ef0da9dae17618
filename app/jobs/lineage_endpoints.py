"""/v1/jobs/{id}/lineage"""

from fastapi import APIRouter, Response

from app.auth.dependencies import JobsRead
from app.backend import UnitOfWork
from app.jobs import lineage, service
from app.jobs.lineage_schemas import LineageRead
from app.jobs.service import JobNotFound
from app.kit.fields import JobId
from app.kit.problems import problems
from app.kit.replies import reply

router = APIRouter(prefix="/v1/jobs/{id}/lineage", tags=["history"])


@router.get(
    "",
    operation_id="get_lineage",
    summary="What a job goes on from, and what goes on from it",
    response_model=LineageRead,
    responses=problems(JobNotFound),
)
def get_lineage(id: JobId, auth: JobsRead, session: UnitOfWork) -> Response:
    """`path` is the way from the lineage's first job to this one, with all stages; `jobs` is the whole tree, each
    job naming the one that it `continues`."""
    job, _ = service.read(session, auth.project, id)
    path = lineage.path_of(session, job)
    members = lineage.members(session, auth.project, job.lineage, lineage.SHOWN)
    return reply(LineageRead.of(job, path, members, lineage.count_of(session, job.lineage)))
