"""Who is asking, as annotated types for endpoints: `auth: JobsRead`."""

from typing import Annotated, ClassVar

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.auth.scopes import Scope
from app.auth.service import Principal, authenticate
from app.backend import BackendDep
from app.kit.problems import Forbidden, Unauthorized

_BEARER = HTTPBearer(
    scheme_name="ApiKey",
    bearerFormat="sctr_…",
    description="A project's API key: `Authorization: Bearer sctr_…`.",
    auto_error=False,
)


def get_principal(
    request: Request,
    backend: BackendDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Principal:
    """Look the key up in a transaction of its own, which is over before the endpoint takes a connection."""
    known = request.scope["state"].get("principal")
    if isinstance(known, Principal):
        return known
    if credentials is None or credentials.scheme.lower() != "bearer":
        raise Unauthorized
    secret = backend.settings.secret.get_secret_value()
    with backend.sessions.begin() as session:
        principal = authenticate(session, credentials.credentials, secret)
    if principal is None:
        raise Unauthorized
    return principal


class Require:
    """A dependency that lets only keys with one scope pass."""

    before_body: ClassVar = True

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(
        self, request: Request, principal: Annotated[Principal, Depends(get_principal)]
    ) -> Principal:
        structlog.contextvars.bind_contextvars(project=principal.project, key=principal.key)
        if not principal.may(self._scope):
            raise Forbidden(self._scope)
        request.scope["state"]["principal"] = principal
        return principal


JobsRead = Annotated[Principal, Depends(Require(Scope.jobs_read))]
JobsWrite = Annotated[Principal, Depends(Require(Scope.jobs_write))]
DataRead = Annotated[Principal, Depends(Require(Scope.data_read))]
DataWrite = Annotated[Principal, Depends(Require(Scope.data_write))]
