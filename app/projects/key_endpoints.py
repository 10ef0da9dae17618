"""/v1/projects/{id}/keys"""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Response

from app.auth.dependencies import KeysWrite
from app.auth.service import NewKey
from app.backend import Backend, BackendDep, UnitOfWork
from app.idempotency.once import ONCE, Once
from app.kit.json_body import StrictRoute
from app.kit.pagination import Page, Paging
from app.kit.problems import UnsupportedMediaType, problems
from app.kit.replies import reply
from app.projects import keys, repository, service
from app.projects.keys import ExpiryPassed, GrantExceeded, KeyEnded, KeyNotFound, TooManyKeys
from app.projects.schemas import KeyCreate, KeyCreated, KeyPatch, KeyRead, KeyRotate
from app.projects.service import ProjectNotFound

router = APIRouter(prefix="/v1/projects/{id}/keys", tags=["keys"], route_class=StrictRoute)

ProjectId = Annotated[str, Path(description="`prj_…`", max_length=100)]
KeyId = Annotated[str, Path(description="`key_…`", max_length=100)]


@router.post(
    "",
    summary="Create an API key",
    status_code=201,
    response_model=KeyCreated,
    responses=problems(ProjectNotFound, GrantExceeded, TooManyKeys, ExpiryPassed, UnsupportedMediaType, *ONCE),
)
async def create_key(
    id: ProjectId, body: KeyCreate, auth: KeysWrite, session: UnitOfWork, backend: BackendDep, once: Once
) -> Response:
    """The answer shows the secret, this once. With `admin` a key of any project and any scope; with `keys:write`
    one of the own project, with no scope and no time that the asking key has not."""
    return await once.run(lambda: _new(keys.create(session, auth, id, body, _secret(backend))), personal=True)


@router.get(
    "",
    summary="List a project's keys, newest first",
    response_model=Page[KeyRead],
    responses=problems(ProjectNotFound),
)
def list_keys(id: ProjectId, auth: KeysWrite, session: UnitOfWork, page: Paging) -> Response:
    """One page of its keys, also of those that have ended; never a secret."""
    service.reach(session, auth, id)
    return reply(page.page(session, repository.key_listing(id), KeyRead.of))


@router.get(
    "/{key}",
    summary="Read a key",
    response_model=KeyRead,
    responses=problems(ProjectNotFound, KeyNotFound),
)
def get_key(id: ProjectId, key: KeyId, auth: KeysWrite, session: UnitOfWork) -> Response:
    """Without its secret."""
    return reply(KeyRead.of(*keys.read(session, auth, id, key)))


@router.patch(
    "/{key}",
    summary="Give a key another name",
    response_model=KeyRead,
    responses=problems(ProjectNotFound, KeyNotFound, GrantExceeded, UnsupportedMediaType),
)
def change_key(id: ProjectId, key: KeyId, body: KeyPatch, auth: KeysWrite, session: UnitOfWork) -> Response:
    """Scopes and expiry of a key never change; make another one. Like every change of a key: by an operator, or by
    one that has all of its scopes."""
    return reply(KeyRead.of(*keys.rename(session, auth, id, key, body.name)))


@router.post(
    "/{key}/rotate",
    summary="Give a key a new secret",
    status_code=201,
    response_model=KeyCreated,
    responses=problems(ProjectNotFound, KeyNotFound, KeyEnded, GrantExceeded, UnsupportedMediaType, *ONCE),
)
async def rotate_key(
    id: ProjectId,
    key: KeyId,
    body: KeyRotate,
    auth: KeysWrite,
    session: UnitOfWork,
    backend: BackendDep,
    once: Once,
) -> Response:
    """The answer shows the new secret, this once. The one before works for `grace_seconds` yet; the one before
    that, no more. The key keeps its id, scopes and expiry."""
    seconds = body.grace_seconds
    rotate = partial(keys.rotate, session, auth, id, key, seconds, _secret(backend))
    return await once.run(lambda: _new(rotate()), personal=True)


@router.delete(
    "/{key}",
    summary="Revoke a key",
    status_code=204,
    response_class=Response,
    responses=problems(ProjectNotFound, KeyNotFound, GrantExceeded),
)
def revoke_key(id: ProjectId, key: KeyId, auth: KeysWrite, session: UnitOfWork) -> Response:
    """At once and for good, with the secret that a rotation has left. May be repeated."""
    keys.revoke(session, auth, id, key)
    return Response(status_code=204)


def _new(made: NewKey) -> Response:
    location = {"Location": f"/v1/projects/{made.key.project_id}/keys/{made.key.id}"}
    return reply(KeyCreated.shown_once(made.key, made.text), 201, location)


def _secret(backend: Backend) -> str:
    return backend.settings.secret.get_secret_value()
