"""A job's final state as one archive, to keep or for the engine alone; no call takes it in again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy.orm import Session

from app.artifacts import service
from app.artifacts.archive import Archive, Member, from_bytes
from app.artifacts.service import NoArtifacts, StoredFile
from app.delivery.object_keys import is_state, is_statistics
from app.jobs import service as jobs
from app.lineage import stages
from app.storage import ObjectStore
from app.tables.jobs import Job

MEDIA_TYPE: Final = "application/octet-stream"
"""The name says what is in it; generators of clients know no type of its own."""
DOCUMENT: Final = "state.json"


@dataclass(frozen=True)
class Export:
    """An archive and what goes with it."""

    archive: Archive
    files: Sequence[StoredFile]
    name: str
    etag: str

    def headers(self) -> dict[str, str]:
        return {
            "ETag": self.etag,
            "Accept-Ranges": "bytes",
            "Content-Disposition": f'attachment; filename="{self.name}"',
            "Cache-Control": "private, no-cache",
        }


def export(session: Session, project: str, id: str, store: ObjectStore) -> Export:
    """The archive of a job's state, of which nothing is read yet. Raises JobNotFound, NoArtifacts."""
    manifest = service.read_manifest(session, project, id)
    files = [file for file in service.find_files(session, project, id) if is_state(file.path)]
    if not any(is_statistics(file.path) for file in files):
        raise NoArtifacts("The job's artifact has no state.")
    job, _ = jobs.read(session, project, id)
    document = json.dumps(_document(session, job, manifest, files), indent=1, sort_keys=True).encode()
    stored = [Member(file.path, file.bytes, partial(store.stream, file.key)) for file in files]
    etag = f'"{hashlib.sha256(document).hexdigest()}"'
    return Export(Archive([from_bytes(DOCUMENT, document), *stored]), files, f"{id}-state.tar", etag)


def _document(session: Session, job: Job, manifest: dict[str, Any], files: Sequence[StoredFile]) -> dict[str, Any]:
    """What statistics and weights are of, and how to check them."""
    path = stages.path_of(session, job)
    return {
        "job": job.id,
        "manifest_digest": manifest["digest"],
        "provenance": manifest["provenance"],
        "spec": job.spec,
        "lineage": [
            {"job": stage.job, "stage": stage.stage, "lineage_stage": stage.lineage_stage, "domain": stage.domain}
            for stage in stages.stages_of(path)
        ],
        "files": [{"path": file.path, "sha256": file.sha256, "bytes": file.bytes} for file in files],
    }
