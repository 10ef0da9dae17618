"""/v1/jobs/{id}/artifacts"""

from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Response
from starlette.responses import RedirectResponse

from app.artifacts import service
from app.artifacts.ranges import Range, RangeNotSatisfiable
from app.artifacts.schemas import ManifestRead, VerificationRead
from app.artifacts.service import FileNotInArtifact, NoArtifacts
from app.auth.dependencies import JobsRead
from app.backend import BackendDep, UnitOfWork
from app.jobs.service import JobNotFound
from app.kit.conditions import CURRENT, IfNoneMatch, none_match
from app.kit.fields import JobId
from app.kit.headers import Sent, sends
from app.kit.problems import problems
from app.kit.replies import reply

router = APIRouter(prefix="/v1/jobs/{id}/artifacts", tags=["artifacts"])

PRESIGNED_SECONDS: Final = 300
FilePath = Annotated[str, Path(description="As in the manifest, slashes and all.", examples=["model/config.json"])]
OCTETS: Final = "application/octet-stream"
"""Of every file, whatever it is: the manifest says what that is, and generated clients know no other type."""
_BINARY: Final = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
_WHOLE: Final = (Sent.etag, Sent.digest, Sent.ranges, Sent.disposition)
_FILE: Final[dict[int | str, dict[str, Any]]] = {
    200: {**sends(*_WHOLE, description="The file"), "content": _BINARY},
    206: {**sends(*_WHOLE, Sent.range, description="The range"), "content": _BINARY},
    304: sends(*_WHOLE, description=CURRENT),
    307: sends(Sent.etag, Sent.location, description="Where the store serves it for some minutes"),
}


@router.get(
    "",
    summary="The files of a finished job",
    response_model=ManifestRead,
    responses={
        200: sends(Sent.etag),
        304: sends(Sent.etag, description=CURRENT),
        **problems(JobNotFound, NoArtifacts),
    },
)
def get_manifest(id: JobId, auth: JobsRead, session: UnitOfWork, if_none_match: IfNoneMatch = None) -> Response:
    """Path, size and sha256 of every file, and where the result comes from. `digest` names it all. A job that has
    failed by its gate alone has files as well."""
    manifest = service.read_manifest(session, auth.project, id)
    headers = {"ETag": f'"{manifest["digest"]}"', "Cache-Control": "private, no-cache"}
    if not none_match(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return reply(ManifestRead.model_validate(manifest), headers=headers)


@router.post(
    "/verify",
    summary="Hash the stored files again",
    response_model=VerificationRead,
    responses=problems(JobNotFound, NoArtifacts),
)
def verify_artifact(id: JobId, auth: JobsRead, backend: BackendDep) -> Response:
    """Reads every file in the store and compares it with the manifest, which takes minutes for a large model.
    Only a few of these run at once; 503 asks to come back."""
    with backend.sessions.begin() as session:
        files = service.find_files(session, auth.project, id)
    checked = service.verify(backend.store, files)
    return reply(VerificationRead(ok=all(file.ok for file in checked), files=checked))


@router.get(
    "/{path:path}",
    summary="Download a file",
    response_class=Response,
    responses={**_FILE, **problems(JobNotFound, NoArtifacts, FileNotInArtifact, RangeNotSatisfiable)},
)
def download_file(
    id: JobId,
    path: FilePath,
    auth: JobsRead,
    backend: BackendDep,
    range: Range,
    if_none_match: IfNoneMatch = None,
    redirect: Annotated[bool, Query(description="Whether an answer may point to the store.")] = True,
) -> Response:
    """The whole file or one range of it, with its sha256 as `ETag` and `Repr-Digest`."""
    with backend.sessions.begin() as session:  # which ends before the store is asked for anything
        file = service.find_file(session, auth.project, id, path)
    if not none_match(if_none_match, file.etag):
        return Response(status_code=304, headers=file.headers())
    url = backend.store.presign(file.key, PRESIGNED_SECONDS) if redirect else None
    if url is not None:
        return RedirectResponse(url, 307, {"ETag": file.etag, "Cache-Control": "no-store"})
    service.require(backend.store, [file])
    return range.answer(partial(backend.store.stream, file.key), file.bytes, file.headers(), OCTETS)


@router.head(
    "/{path:path}",
    summary="A file's headers",
    response_class=Response,
    responses={
        200: sends(*_WHOLE, description="As the download"),
        **problems(JobNotFound, NoArtifacts, FileNotInArtifact),
    },
)
def describe_file(id: JobId, path: FilePath, auth: JobsRead, session: UnitOfWork) -> Response:
    """Size, type and digest without the content."""
    file = service.find_file(session, auth.project, id, path)
    headers = {**file.headers(), "Content-Length": str(file.bytes), "Content-Type": OCTETS}
    return Response(headers=headers)
