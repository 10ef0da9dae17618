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


def admit(request: Request, principal: Principal, *scopes: Scope) -> None:
    """Let the key in. scopes: one of them is enough, and none is needed where there are none. Raises Forbidden."""
    structlog.contextvars.bind_contextvars(project=principal.project, key=principal.key)
    request.scope["state"]["known"] = principal
    if scopes and not principal.may(*scopes):
        raise Forbidden(*scopes)
    request.scope["state"]["principal"] = principal


class Require:
    """A dependency that lets only keys pass that have one of these scopes; without any, every key."""

    before_body: ClassVar = True

    def __init__(self, *scopes: Scope) -> None:
        self._scopes = scopes

    async def __call__(
        self, request: Request, principal: Annotated[Principal, Depends(get_principal)]
    ) -> Principal:
        admit(request, principal, *self._scopes)
        return principal


JobsRead = Annotated[Principal, Depends(Require(Scope.jobs_read))]
JobsWrite = Annotated[Principal, Depends(Require(Scope.jobs_write))]
DataRead = Annotated[Principal, Depends(Require(Scope.data_read))]
DataWrite = Annotated[Principal, Depends(Require(Scope.data_write))]
Admin = Annotated[Principal, Depends(Require(Scope.admin))]
KeysWrite = Annotated[Principal, Depends(Require(Scope.keys_write, Scope.admin))]
TokenWrite = Annotated[Principal, Depends(Require(Scope.data_write, Scope.admin))]
AuditRead = Annotated[Principal, Depends(Require(Scope.audit_read, Scope.admin))]
Anybody = Annotated[Principal, Depends(Require())]
"""With any living key."""
