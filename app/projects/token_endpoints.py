"""/v1/projects/{id}/hub_token"""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from app.auth import hub_tokens
from app.auth.dependencies import TokenWrite
from app.backend import BackendDep, UnitOfWork
from app.kit.json_body import StrictRoute
from app.kit.problems import UnsupportedMediaType, problems
from app.kit.replies import reply
from app.projects import service
from app.projects.schemas import HubTokenPut, HubTokenRead
from app.projects.service import ProjectNotFound

router = APIRouter(prefix="/v1/projects/{id}/hub_token", tags=["projects"], route_class=StrictRoute)

ProjectId = Annotated[str, Path(description="`prj_…`", max_length=100)]


@router.put(
    "",
    summary="Set the project's token of the hub",
    response_model=HubTokenRead,
    responses=problems(ProjectNotFound, UnsupportedMediaType),
)
def put_hub_token(
    id: ProjectId, body: HubTokenPut, auth: TokenWrite, session: UnitOfWork, backend: BackendDep
) -> Response:
    """For operators (`admin`) and for keys of the project with `data:write`. The token is sealed, shown to nobody,
    and sent to the hub alone, for this project's models and datasets alone. It replaces the one before."""
    service.reach(session, auth, id, lock=True)
    secret = backend.settings.secret.get_secret_value()
    return reply(HubTokenRead.of(hub_tokens.put(session, id, body.token, auth.key, secret)))


@router.get(
    "",
    summary="Whether the project has a token of the hub",
    response_model=HubTokenRead,
    responses=problems(ProjectNotFound),
)
def get_hub_token(id: ProjectId, auth: TokenWrite, session: UnitOfWork) -> Response:
    """Its last characters and its age, never the token."""
    service.reach(session, auth, id)
    return reply(HubTokenRead.of(hub_tokens.find(session, id)))


@router.delete(
    "",
    summary="Forget the project's token of the hub",
    status_code=204,
    response_class=Response,
    responses=problems(ProjectNotFound),
)
def delete_hub_token(id: ProjectId, auth: TokenWrite, session: UnitOfWork) -> Response:
    """What is being fetched with it may still end. May be repeated."""
    service.reach(session, auth, id)
    hub_tokens.remove(session, id)
    return Response(status_code=204)
