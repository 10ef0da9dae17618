"""The middleware that gives every upload its place among those under way.

An upload is a body that is not JSON. Its place is taken when the call first asks for the body, which is after its
key was let in, and given back when the call ends.
"""

from contextlib import ExitStack
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth.service import Principal
from app.backend import Backend
from app.kit.json_body import is_json
from app.quotas import service
from app.quotas.catalogue import Limits
from app.quotas.uploads import Upload

_CARRYING: Final = frozenset({"POST", "PUT", "PATCH"})


class Uploads:
    """Refuses what is one upload too many, or too much for project or disk, before and while it arrives."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _may_carry(scope):
            await self._app(scope, receive, send)
            return
        with ExitStack() as held:
            upload: Upload | None = None

            async def counted() -> Message:
                nonlocal upload
                upload = upload or await _begin(scope, held)
                message = await receive()
                if upload is not None and message["type"] == "http.request":
                    upload.take(len(message.get("body", b"")))
                return message

            await self._app(scope, counted, send)


def _may_carry(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] not in _CARRYING:
        return False
    headers = Headers(scope=scope)
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    return has_body and not is_json(headers.get("content-type"))


async def _begin(scope: Scope, held: ExitStack) -> Upload | None:
    """None for a caller who was not let in, whose body nobody keeps."""
    principal = scope.get("state", {}).get("principal")
    if not isinstance(principal, Principal):
        return None
    backend: Backend = scope["app"].state.backend
    limits, left = await run_in_threadpool(_limits, backend, principal.project)
    length = Headers(scope=scope).get("content-length", "")
    announced = int(length[:20]) if length.isdecimal() else None
    return held.enter_context(backend.uploads.receiving(principal.project, announced, limits, left))


def _limits(backend: Backend, project: str) -> tuple[Limits, int | None]:
    with backend.sessions.begin() as session:
        return service.read_limits(session, project), service.storage_left(session, project)
