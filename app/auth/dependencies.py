"""Who is asking, as annotated types for endpoints: `auth: JobsRead`."""

from typing import Annotated, ClassVar

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.auth.scopes import Scope
from app.auth.service import Principal, authenticate
from app.auth.tokens import is_token, token_digest
from app.backend import BackendDep
from app.kit.problems import Forbidden, Unauthorized

_BEARER = HTTPBearer(
    scheme_name="ApiKey",
    bearerFormat="sctr_…",
    description="A project's API key: `Authorization: Bearer sctr_…`.",
    auto_error=False,
)


async def key_digest(
    backend: BackendDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
) -> bytes:
    """Of the key that was sent, which may be anybody's. Raises Unauthorized."""
    if credentials is None or credentials.scheme.lower() != "bearer" or not is_token(credentials.credentials):
        raise Unauthorized
    return token_digest(credentials.credentials, backend.settings.secret.get_secret_value())


KeyDigest = Annotated[bytes, Depends(key_digest)]
"""For a call that asks who it is together with what it is about, and then calls `admit`."""


async def get_principal(request: Request, backend: BackendDep, digest: KeyDigest) -> Principal:
    """Look the key up, which is over before the endpoint takes a connection."""
    known = request.scope["state"].get("principal")
    if isinstance(known, Principal):
        return known
    principal = await backend.batches(authenticate).ask(digest)
    if principal is None:
        raise Unauthorized
    return principal


def admit(request: Request, principal: Principal, scope: Scope) -> None:
    """Let the key in. Raises Forbidden when it has not got the scope."""
    structlog.contextvars.bind_contextvars(project=principal.project, key=principal.key)
    if not principal.may(scope):
        raise Forbidden(scope)
    request.scope["state"]["principal"] = principal


class Require:
    """A dependency that lets only keys with one scope pass."""

    before_body: ClassVar = True

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(
        self, request: Request, principal: Annotated[Principal, Depends(get_principal)]
    ) -> Principal:
        admit(request, principal, self._scope)
        return principal


JobsRead = Annotated[Principal, Depends(Require(Scope.jobs_read))]
JobsWrite = Annotated[Principal, Depends(Require(Scope.jobs_write))]
DataRead = Annotated[Principal, Depends(Require(Scope.data_read))]
DataWrite = Annotated[Principal, Depends(Require(Scope.data_write))]
