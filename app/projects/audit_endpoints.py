"""/v1/audit"""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.audit import repository
from app.audit.repository import Filter
from app.auth.dependencies import AuditRead as MayAudit
from app.auth.scopes import Scope
from app.backend import UnitOfWork
from app.kit.clock import Instant
from app.kit.json_body import StrictRoute
from app.kit.pagination import Page, Paging
from app.kit.problems import problems
from app.kit.replies import reply
from app.projects import service
from app.projects.schemas import AuditRead
from app.projects.service import ProjectNotFound

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=StrictRoute)

Word = Annotated[str | None, Query(max_length=100)]


@router.get(
    "",
    summary="List who changed what, newest first",
    response_model=Page[AuditRead],
    responses=problems(ProjectNotFound),
)
def list_audit_events(
    auth: MayAudit,
    session: UnitOfWork,
    page: Paging,
    project: Annotated[str | None, Query(max_length=100, description="`prj_…`; of one's own by default.")] = None,
    key: Annotated[str | None, Query(max_length=100, description="`key_…` that asked.")] = None,
    action: Annotated[str | None, Query(max_length=100, description="A call's `operationId`.")] = None,
    object_id: Word = None,
    outcome: Annotated[str | None, Query(max_length=100, description="`done`, or a problem's code.")] = None,
    created_after: Instant | None = None,
    created_before: Instant | None = None,
) -> Response:
    """Every call that created, changed or deleted something, written with the change itself, and refused keys,
    counted. With `audit:read` the own project's; with `admin` also any other's, and without `project` all."""
    operator = auth.may(Scope.admin)
    if project is not None and not operator:
        service.reach(session, auth, project)
    whose = project if operator else auth.project
    filter = Filter(whose, key, action, object_id, outcome, created_after, created_before)
    return reply(page.page(session, repository.listing(filter), AuditRead.of))
