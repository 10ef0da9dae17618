"""/v1/jobs/{id}/lineage"""

from fastapi import APIRouter, Response

from app.auth.dependencies import JobsRead
from app.backend import UnitOfWork
from app.jobs import service
from app.jobs.service import JobNotFound
from app.kit.fields import JobId
from app.kit.problems import problems
from app.kit.replies import reply
from app.lineage import stages
from app.lineage.schemas import LineageRead

router = APIRouter(prefix="/v1/jobs/{id}/lineage", tags=["history"])


@router.get(
    "",
    summary="What a job continues, and what continues it",
    response_model=LineageRead,
    responses=problems(JobNotFound),
)
def get_lineage(id: JobId, auth: JobsRead, session: UnitOfWork) -> Response:
    """`path` is the way from the lineage's first job to this one, with all stages; `jobs` is the whole tree, each
    job naming the one that it `continues`."""
    job, _ = service.read(session, auth.project, id)
    path = stages.path_of(session, job)
    members = stages.members(session, auth.project, job.lineage, stages.SHOWN)
    return reply(LineageRead.of(job, path, members, stages.count_of(session, job.lineage)))
