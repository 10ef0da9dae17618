"""What a job produced: authorised by the job's row, found by the manifest, never by a path of the caller's."""

import base64
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy.orm import Session

from app.artifacts.schemas import CheckedFileRead
from app.jobs import service as jobs
from app.kit.problems import NotFound, Unavailable
from app.storage import ObjectMissing, ObjectStore

VERIFICATIONS: Final = 2
"""Verifications that one process runs at once."""
_VERIFYING: Final = threading.BoundedSemaphore(VERIFICATIONS)


class NoArtifacts(NotFound):
    code, title = "no_artifacts", "The job has not published any files"


class FileNotInArtifact(NotFound):
    code, title = "file_not_found", "The artifact has no such file"


@dataclass(frozen=True)
class StoredFile:
    """A file of a manifest."""

    path: str
    sha256: str
    bytes: int
    media_type: str
    key: str

    @property
    def etag(self) -> str:
        """Strong: the content's own digest."""
        return f'"{self.sha256}"'

    def headers(self) -> dict[str, str]:
        """What goes with the file whole or in part."""
        digest = base64.b64encode(bytes.fromhex(self.sha256)).decode()
        return {
            "ETag": self.etag,
            "Accept-Ranges": "bytes",
            "Repr-Digest": f"sha-256=:{digest}:",
            "Content-Disposition": _attachment(PurePosixPath(self.path).name),
            "Cache-Control": "private, no-cache",
        }


def read_manifest(session: Session, project: str, id: str) -> dict[str, Any]:
    """Raises JobNotFound, NoArtifacts."""
    job, _ = jobs.read(session, project, id)
    if job.manifest is None:
        raise NoArtifacts("The job has not come to its end (yet).")
    return job.manifest


def find_files(session: Session, project: str, id: str) -> list[StoredFile]:
    """All files of the artifact. Raises JobNotFound, NoArtifacts."""
    names = StoredFile.__dataclass_fields__
    files = read_manifest(session, project, id)["files"]
    return [StoredFile(**{name: file[name] for name in names}) for file in files]


def find_file(session: Session, project: str, id: str, path: str) -> StoredFile:
    """Raises JobNotFound, NoArtifacts, FileNotInArtifact."""
    for file in find_files(session, project, id):
        if file.path == path:
            return file
    raise FileNotInArtifact


def require(store: ObjectStore, files: Sequence[StoredFile]) -> None:
    """Raises ObjectMissing while there is still time for an honest answer."""
    for file in files:
        if store.head(file.key) is None:
            raise ObjectMissing("a published file is not in the store")


def verify(store: ObjectStore, files: list[StoredFile]) -> list[CheckedFileRead]:
    """Read the files again; one that is missing is not well, a store that fails is an error.

    Raises Unavailable while too many others do the same, because each takes a thread and much of the store.
    """
    if not _VERIFYING.acquire(blocking=False):
        raise Unavailable("Other artifacts are being verified; ask again in a minute.", retry_after=60)
    try:
        return [CheckedFileRead(path=file.path, ok=_is_intact(store, file)) for file in files]
    finally:
        _VERIFYING.release()


def _is_intact(store: ObjectStore, file: StoredFile) -> bool:
    digest = hashlib.sha256()
    try:
        for piece in store.stream(file.key):
            digest.update(piece)
    except ObjectMissing:
        return False
    return digest.hexdigest() == file.sha256


def _attachment(name: str) -> str:
    """A Content-Disposition that no name can break out of (RFC 6266)."""
    plain = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "_" for sign in name)
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{extended}'
