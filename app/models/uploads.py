"""Rules of models that are sent file by file: in parts, from where the last one ended, to any process."""

import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.backend import Backend
from app.kit.problems import Invalid, NotFound, Problem, exists
from app.kit.scratch import flush_scratch, open_scratch, remove_scratch, write_scratch
from app.models import repository
from app.models.schemas import PresignedPut, UploadedFileRead
from app.models.service import ModelNotFound
from app.quotas.catalogue import Quota
from app.quotas.service import reserve
from app.tables.models import Model, ModelPart, ModelState
from app.tables.tasks import TaskKind
from app.tasks.service import submit

PART_BYTES: Final = 64 * 2**20
"""What is stored at once; a connection that breaks costs no more than this."""
PIECE: Final = 2**20
PRESIGNED_SECONDS: Final = 3600
MOST_PRESIGNED: Final = 5 * 2**30
"""Largest object that S3 takes in one PUT."""


class FileNotFound(NotFound):
    code, title = "file_not_found", "The upload has no such file"


class NotUploading(Problem):
    status, code, title = 409, "model_not_uploading", "The model takes no files"


class OffsetMismatch(Problem):
    """Upload-Offset in the answer says where to go on."""

    status, code, title = 409, "offset_mismatch", "The file has been received up to another place"

    def __init__(self, received: int = 0) -> None:
        detail = f"{received} bytes of it have been received; send the rest with Upload-Offset: {received}."
        super().__init__(detail, headers={"Upload-Offset": str(received)})


class UploadIncomplete(Problem):
    status, code, title = 409, "upload_incomplete", "Some files have not been received whole"


class TooManyBytes(Invalid):
    code, title = "too_many_bytes", "More was sent than the file has"


class PresignUnavailable(Problem):
    status, code, title = 409, "presign_unavailable", "This service's store takes no file directly"


@dataclass(frozen=True)
class Place:
    """One file of an upload, and how much of it there is."""

    project: str
    model: str
    path: str
    bytes: int
    received: int


def files(session: Session, project: str, id: str) -> list[UploadedFileRead]:
    """Raises ModelNotFound, NotUploading."""
    model = exists(repository.find(session, project, id), ModelNotFound)
    return _files(model, repository.parts(session, id))


def place(session: Session, project: str, id: str, path: str) -> Place:
    """Raises ModelNotFound, NotUploading, FileNotFound."""
    found = next((file for file in files(session, project, id) if file.path == path), None)
    file = exists(found, FileNotFound)
    return Place(project, id, path, file.bytes, file.received)


async def receive(backend: Backend, place: Place, stream: AsyncIterator[bytes]) -> int:
    """Store what comes, part by part, each committed before the next; how much of the file there is then.

    What came before a connection broke is kept. Raises TooManyBytes, OffsetMismatch when another call was quicker,
    NotUploading.
    """
    received = place.received
    part = await run_in_threadpool(open_scratch, backend.settings.work_dir / "uploads")
    pending = bytearray()
    size = 0
    try:
        try:
            async for chunk in stream:
                if received + size + len(chunk) > place.bytes:
                    raise TooManyBytes(
                        f"The file has {place.bytes} bytes by the model's source; nothing more is taken."
                    )
                pending += chunk
                size += len(chunk)
                if len(pending) >= PIECE:
                    await run_in_threadpool(write_scratch, part, bytes(pending))
                    pending.clear()
                if size >= PART_BYTES:
                    received = await run_in_threadpool(_keep, backend, place, received, part, bytes(pending))
                    pending.clear()
                    size = 0
        except ClientDisconnect:
            if size:
                await run_in_threadpool(_keep, backend, place, received, part, bytes(pending))
            raise
        if size:
            received = await run_in_threadpool(_keep, backend, place, received, part, bytes(pending))
        return received
    finally:
        await run_in_threadpool(remove_scratch, part)


def presigned(backend: Backend, project: str, id: str) -> set[str]:
    """Files that lie whole in the store by a presigned PUT; looked for while no transaction waits. Raises
    ModelNotFound."""
    if backend.store.signer is None:
        return set()
    with backend.sessions.begin() as session:
        model = exists(repository.find(session, project, id), ModelNotFound)
        if model.source.get("type") != "upload" or model.state != ModelState.uploading:
            return set()
        files = [file for file in _files(model, repository.parts(session, id)) if file.received == 0 < file.bytes]
    return {
        file.path for file in files if backend.store.head(_presigned_key(project, id, file.path)) == file.bytes
    }


def complete(session: Session, project: str, id: str, presigned: Collection[str]) -> Model:
    """Have the intake read what was sent; harmless again. presigned: what lies in the store.

    Raises ModelNotFound, NotUploading, UploadIncomplete, StorageQuotaExceeded.
    """
    model = exists(repository.find_for_upload(session, project, id), ModelNotFound)
    if model.source.get("type") != "upload":
        raise NotUploading("Its source is not an upload.")
    if model.state != ModelState.uploading:
        return model
    missing = []
    for file in _files(model, repository.parts(session, id)):
        if file.received == file.bytes:
            continue
        if file.received == 0 and file.path in presigned:
            key = _presigned_key(project, id, file.path)
            reserve(session, project, Quota.stored_bytes, size=file.bytes)
            session.add(ModelPart(model_id=id, path=file.path, start=0, bytes=file.bytes, object_key=key))
        else:
            missing.append(f"{file.path} ({file.received} of {file.bytes} bytes)")
    if missing:
        raise UploadIncomplete(f"Send the rest of {', '.join(missing[:5])}.")
    model.state = ModelState.pending
    session.flush()
    submit(session, project, TaskKind.model_intake, id)
    return model


def presign(session: Session, backend: Backend, place: Place) -> PresignedPut:
    """Raises PresignUnavailable, StorageQuotaExceeded."""
    if place.bytes > MOST_PRESIGNED:
        raise PresignUnavailable(f"A file of more than {MOST_PRESIGNED} bytes is sent in parts.")
    reserve(session, place.project, Quota.stored_bytes, size=place.bytes)
    until = datetime.now(UTC) + timedelta(seconds=PRESIGNED_SECONDS)
    url = backend.store.presign(_presigned_key(place.project, place.model, place.path), PRESIGNED_SECONDS, "PUT")
    if url is None:
        raise PresignUnavailable("Send the file to the service itself, by PUT.")
    return PresignedPut(url=url, expires_at=until)


def _files(model: Model, parts: Sequence[ModelPart]) -> list[UploadedFileRead]:
    if model.state != ModelState.uploading:
        raise NotUploading(f"It is {model.state}.")
    received: dict[str, int] = {}
    for part in parts:
        received[part.path] = received.get(part.path, 0) + part.bytes
    return [UploadedFileRead(**file, received=received.get(file["path"], 0)) for file in model.source["files"]]


def _presigned_key(project: str, model: str, path: str) -> str:
    return f"{repository.uploads_folder(project)}/{model}/presigned/{path}"


def _keep(backend: Backend, place: Place, start: int, part: IO[bytes], rest: bytes) -> int:
    """The part into the store, then its row; the file is empty again. How much of the file there is then."""
    write_scratch(part, rest)
    flush_scratch(part)
    size = part.tell()
    key = f"{repository.uploads_folder(place.project)}/{place.model}/{uuid.uuid4().hex}"
    backend.store.put_file(key, Path(part.name))
    try:
        with backend.sessions.begin() as session:
            model = exists(repository.find_for_upload(session, place.project, place.model), ModelNotFound)
            listed = _files(model, repository.parts(session, place.model))
            there = next(file.received for file in listed if file.path == place.path)
            if there != start:
                raise OffsetMismatch(there)
            reserve(session, place.project, Quota.stored_bytes, size=size)
            row: dict[str, Any] = {"path": place.path, "start": start, "bytes": size, "object_key": key}
            session.add(ModelPart(model_id=place.model, **row))
    except Problem:
        backend.store.delete([key])
        raise
    part.seek(0)
    part.truncate()
    return start + size
