"""/v1/usage"""

from fastapi import APIRouter, Response

from app.auth.dependencies import JobsRead
from app.backend import BackendDep, UnitOfWork
from app.kit.problems import problems
from app.kit.replies import reply
from app.quotas import service
from app.quotas.catalogue import MEANINGS, Quota
from app.usage.schemas import QuotaUsage, UsageRead

router = APIRouter(tags=["usage"])


@router.get("/v1/usage", summary="Read the project's quotas", response_model=UsageRead, responses=problems())
def get_usage(auth: JobsRead, session: UnitOfWork, backend: BackendDep) -> Response:
    """Of each quota what is used and what the limit is. A call that would pass one is answered 429 or 507, with
    the quota's name. Uploads under way are those of the process that answers."""
    limits = service.read_limits(session, auth.project)
    used = {each.quota: each.used for each in service.usage(session, auth.project)}
    used |= backend.uploads.used(auth.project)
    quotas = {each: QuotaUsage(used=used[each], limit=limits[each], counts=MEANINGS[each]) for each in Quota}
    return reply(UsageRead(project=auth.project, quotas=quotas))
