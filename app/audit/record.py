"""One line in the audit log for every call that changes something, in the transaction of the change.

`record` is a dependency of the whole application: no service has to think of it. What a call does is its
`operationId`; what it was done to is what the answer's Location or the address names.
"""

from typing import Any, Final

from fastapi import Request, Response

from app.audit import repository
from app.kit.answers import before_commit

CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_PROJECTS: Final = "/v1/projects"


async def record(request: Request) -> None:
    """Have the call's line written before its commit, if it changes anything."""
    if request.method in CHANGING:
        before_commit(request, lambda response: _write(request, response))


def _write(request: Request, response: Response) -> None:
    state = request.scope["state"]
    principal, session = state.get("principal"), state.get("session")
    if principal is None or session is None:
        return
    object_id = _object(request, response)
    repository.note(
        session,
        request.scope["route"].name,
        _project(request, object_id) or principal.project,
        actor_project=principal.project,
        key_id=principal.key,
        object_id=object_id,
        request_id=state.get("request_id"),
        client=address(request),
    )
    session.flush()


def _object(request: Request, response: Response) -> str | None:
    location = response.headers.get("location")
    if location is not None:
        return location.rsplit("/", 1)[-1][:100]
    values: list[Any] = list(request.path_params.values())
    return str(values[-1])[:100] if values else None


def _project(request: Request, object_id: str | None) -> str | None:
    """The project that the address names, whose log this belongs into."""
    path = request.scope["route"].path
    if not path.startswith(_PROJECTS):
        return None
    return str(request.path_params["id"]) if "id" in request.path_params else object_id


def address(request: Request) -> str | None:
    """Where the call comes from, as the server sees it."""
    client = request.scope.get("client")
    return str(client[0])[:64] if client else None
