"""Uploading: files of the engine's workspace become content-addressed objects of the job."""

import os
import stat
from pathlib import Path

from app.jobs.delivery.publish import StoredFile
from app.kit.digests import file_sha256
from app.storage import ObjectStore
from worker.supervisor.situation import Situation, persist
from worker.supervisor.staging import safe_join


class Uploads:
    """Puts each content once: an object that is already there is not sent again."""

    def __init__(self, store: ObjectStore, job_id: str, workspace: Path, situation: Situation) -> None:
        self._store = store
        self._prefix = f"jobs/{job_id}"
        self._workspace = workspace
        self._situation = situation

    def put(self, local: str, path: str | None = None) -> StoredFile:
        """Store `local` (relative to the workspace) under its digest; `path` is its name in the artifact.

        Raises ValueError when it is not a plain file of the workspace.
        """
        file = self._plain_file(local)
        sha256 = file_sha256(file)
        size = file.stat().st_size
        key = f"{self._prefix}/objects/{sha256}"
        persist(self._situation, lambda: self._put(key, file, size))
        return StoredFile(path or local, sha256, size, key)

    def put_manifest(self, digest: str, data: bytes) -> None:
        """Store a manifest beside the objects it names."""
        key = f"{self._prefix}/manifests/{digest}.json"
        persist(self._situation, lambda: self._store.put_bytes(key, data))

    def _put(self, key: str, file: Path, size: int) -> None:
        if self._store.head(key) != size:
            self._store.put_file(key, file)

    def _plain_file(self, local: str) -> Path:
        file = safe_join(self._workspace, local)
        if not stat.S_ISREG(os.lstat(file).st_mode):
            raise ValueError("not a plain file")
        if not file.resolve().is_relative_to(self._workspace.resolve()):
            raise ValueError("outside the workspace")
        return file
