"""What a job produced: authorised by the job's row, found by the manifest, never by a path of the caller's."""

import base64
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from sqlalchemy.orm import Session

from app.jobs import service as jobs
from app.kit.problems import NotFound, Problem


class NoArtifacts(NotFound):
    code, title = "no_artifacts", "The job has not published any files"


class FileNotInArtifact(NotFound):
    code, title = "file_not_found", "The artifact has no such file"


class RangeNotSatisfiable(Problem):
    status, code, title = 416, "range_not_satisfiable", "The range lies outside the file"

    def __init__(self, size: int = 0) -> None:
        super().__init__(f"The file has {size} bytes.", headers={"Content-Range": f"bytes */{size}"})


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
        raise NoArtifacts("The job has not succeeded (yet).")
    return job.manifest


def find_file(session: Session, project: str, id: str, path: str) -> StoredFile:
    """Raises JobNotFound, NoArtifacts, FileNotInArtifact."""
    for file in read_manifest(session, project, id)["files"]:
        if file["path"] == path:
            return StoredFile(**{name: file[name] for name in StoredFile.__dataclass_fields__})
    raise FileNotInArtifact


def _attachment(name: str) -> str:
    """A Content-Disposition that no name can break out of (RFC 6266)."""
    plain = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "_" for sign in name)
    extended = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{extended}'
