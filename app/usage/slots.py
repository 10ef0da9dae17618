"""A call's place among the uploads under way: a parameter `slot: UploadSlot` behind the endpoint's `auth`."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.types import Message

from app.auth.dependencies import get_principal
from app.auth.service import Principal
from app.backend import Backend, BackendDep
from app.quotas import service
from app.quotas.catalogue import Limits
from app.quotas.uploads import Upload


async def _hold(
    request: Request, principal: Annotated[Principal, Depends(get_principal)], backend: BackendDep
) -> AsyncIterator[Upload]:
    """Held until the endpoint has answered; every byte of the body is counted as it comes."""
    limits, left = await run_in_threadpool(_limits, backend, principal.project)
    length = request.headers.get("content-length", "")
    announced = int(length[:20]) if length.isdecimal() else None
    with backend.uploads.receiving(principal.project, announced, limits, left) as upload:
        receive = request._receive

        async def counted() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                upload.take(len(message.get("body", b"")))
            return message

        request._receive = counted
        yield upload


def _limits(backend: Backend, project: str) -> tuple[Limits, int | None]:
    with backend.sessions.begin() as session:
        return service.read_limits(session, project), service.storage_left(session, project)


UploadSlot = Annotated[Upload, Depends(_hold, scope="function")]
