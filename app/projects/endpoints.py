"""/v1/projects and /v1/whoami"""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from app.auth.dependencies import Admin, Anybody
from app.backend import BackendDep, UnitOfWork
from app.idempotency.once import ONCE, Once
from app.kit.json_body import StrictRoute
from app.kit.pagination import Page, Paging
from app.kit.problems import UnsupportedMediaType, exists, problems
from app.kit.replies import reply
from app.projects import repository, service
from app.projects.schemas import (
    KeyRead,
    ProjectCreate,
    ProjectPatch,
    ProjectRead,
    Whoami,
    WhoamiProject,
)
from app.projects.service import OwnProject, ProjectExists, ProjectNotEmpty, ProjectNotFound, RootRefused
from app.quotas import service as quotas
from app.tables.auth import Project

router = APIRouter(prefix="/v1", tags=["projects"], route_class=StrictRoute)

ProjectId = Annotated[str, Path(description="`prj_…`", max_length=100)]


@router.get(
    "/whoami", summary="Read the key that asks", response_model=Whoami, responses=problems(ProjectNotFound)
)
def whoami(auth: Anybody, session: UnitOfWork) -> Response:
    """Project, scopes and expiry of the key in the header, and what its project may have; any key may ask."""
    project = service.reach(session, auth, auth.project)
    key, expired = exists(repository.find_key(session, auth.project, auth.key), ProjectNotFound)
    limits = dict(quotas.read_limits(session, project.id))
    owner = WhoamiProject(id=project.id, name=project.name)
    return reply(Whoami(project=owner, key=KeyRead.of(key, expired), limits=limits))


@router.post(
    "/projects",
    summary="Create a project",
    status_code=201,
    response_model=ProjectRead,
    responses=problems(ProjectExists, RootRefused, UnsupportedMediaType, *ONCE),
)
async def create_project(
    body: ProjectCreate, auth: Admin, session: UnitOfWork, backend: BackendDep, once: Once
) -> Response:
    """For operators (`admin`). The project has no key yet."""
    return await once.run(lambda: _shown(service.create(session, body, backend.settings), 201))


@router.get(
    "/projects", summary="List projects, newest first", response_model=Page[ProjectRead], responses=problems()
)
def list_projects(auth: Admin, session: UnitOfWork, page: Paging) -> Response:
    """For operators (`admin`): one page of all projects."""
    return reply(page.page(session, repository.listing(), ProjectRead.of))


@router.get(
    "/projects/{id}",
    summary="Read a project",
    response_model=ProjectRead,
    responses=problems(ProjectNotFound),
)
def get_project(id: ProjectId, auth: Admin, session: UnitOfWork) -> Response:
    """For operators (`admin`)."""
    return _shown(service.reach(session, auth, id))


@router.patch(
    "/projects/{id}",
    summary="Change a project's name, model roots, share or quotas, disable or enable it",
    response_model=ProjectRead,
    responses=problems(ProjectNotFound, ProjectExists, RootRefused, OwnProject, UnsupportedMediaType),
)
def change_project(
    id: ProjectId, body: ProjectPatch, auth: Admin, session: UnitOfWork, backend: BackendDep
) -> Response:
    """For operators (`admin`). No key of a disabled project works; its jobs go on and nothing is deleted."""
    return _shown(service.change(session, auth, id, body, backend.settings))


@router.delete(
    "/projects/{id}",
    summary="Delete an empty project",
    status_code=204,
    response_class=Response,
    responses=problems(ProjectNotFound, ProjectNotEmpty),
)
def delete_project(id: ProjectId, auth: Admin, session: UnitOfWork) -> Response:
    """For operators (`admin`). With its keys; its audit log stays. One that has jobs, models or datasets is
    disabled instead."""
    service.delete(session, id)
    return Response(status_code=204)


def _shown(project: Project, status: int = 200) -> Response:
    location = {"Location": f"/v1/projects/{project.id}"} if status == 201 else None
    return reply(ProjectRead.of(project), status, location)
