"""/v1/models/{id}/files: sending a model's own files"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from app.auth.dependencies import DataRead, DataWrite
from app.backend import Backend, BackendDep, UnitOfWork
from app.idempotency.once import ONCE, Once
from app.kit.fields import ModelId
from app.kit.headers import Sent, sends
from app.kit.json_body import StrictRoute
from app.kit.problems import UnsupportedMediaType, exists, problems
from app.kit.replies import reply
from app.models import uploads
from app.models.schemas import ModelRead, PresignedPut, UploadedFileRead, UploadedFiles
from app.models.service import ModelNotFound
from app.models.uploads import (
    FileNotFound,
    NotUploading,
    OffsetMismatch,
    Place,
    PresignUnavailable,
    TooManyBytes,
    UploadIncomplete,
)
from app.quotas.catalogue import MAKING, StorageQuotaExceeded
from app.quotas.uploads import UPLOADING

router = APIRouter(prefix="/v1/models/{id}", tags=["models"], route_class=StrictRoute)

OCTETS: Final = "application/octet-stream"
_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
}
FilePath = Annotated[str, Path(description="A file's `path` in the model's source.", max_length=200)]
_GONE: Final = (ModelNotFound, FileNotFound, NotUploading)


@router.get(
    "/files",
    summary="What has been received of a model's files",
    response_model=UploadedFiles,
    responses=problems(ModelNotFound, NotUploading),
)
def list_model_files(id: ModelId, auth: DataRead, session: UnitOfWork) -> Response:
    """Of a model whose state is `uploading`: where each file goes on."""
    return reply(UploadedFiles(data=uploads.files(session, auth.project, id)))


@router.get(
    "/files/{path}",
    summary="How much has been received of a model's file",
    response_model=UploadedFileRead,
    responses={200: sends(Sent.upload_offset), **problems(*_GONE)},
)
def get_model_file(id: ModelId, path: FilePath, auth: DataRead, session: UnitOfWork) -> Response:
    """`received`, and the header Upload-Offset, say where the file goes on."""
    files = uploads.files(session, auth.project, id)
    found = exists(next((file for file in files if file.path == path), None), FileNotFound)
    return reply(found, headers={"Upload-Offset": str(found.received)})


@router.put(
    "/files/{path}",
    summary="Send a model's file, or the next part of it",
    status_code=204,
    response_class=Response,
    responses={
        204: sends(Sent.upload_offset),
        **problems(*_GONE, OffsetMismatch, TooManyBytes, UnsupportedMediaType, *UPLOADING),
    },
    openapi_extra={"requestBody": _BODY},
)
async def put_model_file(
    id: ModelId,
    path: FilePath,
    request: Request,
    auth: DataWrite,
    backend: BackendDep,
    upload_offset: Annotated[
        int, Header(ge=0, le=2**44, description="Bytes of the file that were sent before.")
    ] = 0,
) -> Response:
    """The body goes on at Upload-Offset, which must be what has been received. It may be the whole file or a part;
    what came before a connection broke is kept. The whole file's hash is checked by the intake, once the model is
    complete."""
    kind = request.headers.get("content-type", OCTETS).partition(";")[0].strip().lower()
    if kind != OCTETS or "content-encoding" in request.headers:
        raise UnsupportedMediaType(f"Send the file as Content-Type: {OCTETS}, without Content-Encoding.")
    place = await _place(backend, auth.project, id, path)
    if upload_offset != place.received:
        raise OffsetMismatch(place.received)
    received = await uploads.receive(backend, place, request.stream())
    return Response(status_code=204, headers={"Upload-Offset": str(received)})


@router.post(
    "/files/{path}/presign",
    summary="Where to send a model's file directly",
    response_model=PresignedPut,
    responses=problems(*_GONE, PresignUnavailable, StorageQuotaExceeded),
)
def presign_model_file(
    id: ModelId, path: FilePath, auth: DataWrite, session: UnitOfWork, backend: BackendDep
) -> Response:
    """An address of the object store that takes the whole file by one PUT, for an hour. Where the service has no
    such store it says so, and the file is sent by PUT to the service itself."""
    return reply(uploads.presign(session, backend, uploads.place(session, auth.project, id, path)))


@router.post(
    "/complete",
    summary="Have an uploaded model taken in",
    status_code=202,
    response_model=ModelRead,
    responses=problems(ModelNotFound, NotUploading, UploadIncomplete, *ONCE, *MAKING),
)
async def complete_model(
    id: ModelId, auth: DataWrite, session: UnitOfWork, backend: BackendDep, once: Once
) -> Response:
    """All files have been sent: the CPU queue checks their hashes and scans them as it does every model."""
    sent = await run_in_threadpool(uploads.presigned, backend, auth.project, id)
    return await once.run(
        lambda: reply(ModelRead.model_validate(uploads.complete(session, auth.project, id, sent)), 202)
    )


async def _place(backend: Backend, project: str, id: str, path: str) -> Place:
    """Looked up and let go: no connection is held while a file comes."""

    def look() -> Place:
        with backend.sessions.begin() as session:
            return uploads.place(session, project, id, path)

    return await run_in_threadpool(look)
