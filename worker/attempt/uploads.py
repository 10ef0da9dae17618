"""Uploading: files of the engine's workspace become content-addressed objects of the job."""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from app.delivery.object_keys import OUTPUT, StoredFile
from app.storage import ObjectStore
from secateur.digests import file_sha256
from worker.attempt.interrupts import Interrupts, persist
from worker.attempt.staging import safe_join


class Uploads:
    """Puts each content once below the attempt's own folder: what is already there is not sent again."""

    def __init__(self, store: ObjectStore, folder: str, workspace: Path, interrupts: Interrupts) -> None:
        """folder: see `object_keys.attempt_folder`."""
        self._store = store
        self._folder = folder
        self._workspace = workspace
        self._situation = interrupts

    def put_block(self, local: str, stage: int) -> StoredFile:
        """Store a file of a block (relative to the workspace) under its digest.

        Raises ValueError when it is not a plain file of the workspace.
        """
        return self._store_file(self.plain_file(local), local, str(stage))

    def put_output(self, local: str, path: str, committed: Mapping[str, StoredFile]) -> StoredFile:
        """The same for a file of the artifact, whose name there is `path`.

        committed: files of the last stage's blocks by their local names; where one is still the same its object
        is used. Nothing takes these away before the job has ended.
        """
        known = committed.get(local)
        if known is not None and file_sha256(self.plain_file(local)) == known.sha256:
            return replace(known, path=path)
        return self._store_file(self.plain_file(local), path, OUTPUT)

    def drop(self, local: str) -> None:
        """Remove a file that is stored and not needed here any more."""
        self.plain_file(local).unlink()

    def put_made_file(self, file: Path, path: str) -> StoredFile:
        """Store a file of the artifact that the worker has made on its disk."""
        return self._store_file(file, path, OUTPUT)

    def put_made(self, path: str, data: bytes) -> StoredFile:
        """Store what the worker has made in memory."""
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"{self._folder}/{OUTPUT}/{sha256}"
        persist(self._situation, lambda: self._store.put_bytes(key, data))
        return StoredFile(path, sha256, len(data), key)

    def put_manifest(self, digest: str, data: bytes) -> str:
        """Store a manifest; its key."""
        key = f"{self._folder}/{OUTPUT}/manifest-{digest}.json"
        persist(self._situation, lambda: self._store.put_bytes(key, data))
        return key

    def _store_file(self, file: Path, path: str, part: str) -> StoredFile:
        sha256 = file_sha256(file)
        size = file.stat().st_size
        key = f"{self._folder}/{part}/{sha256}"
        persist(self._situation, lambda: self._put(key, file, size))
        return StoredFile(path, sha256, size, key)

    def _put(self, key: str, file: Path, size: int) -> None:
        if self._store.head(key) != size:
            self._store.put_file(key, file)

    def plain_file(self, local: str) -> Path:
        """Where a file of the workspace is. Raises ValueError when it is not a plain one."""
        file = safe_join(self._workspace, local)
        if not stat.S_ISREG(os.lstat(file).st_mode):
            raise ValueError("not a plain file")
        if not file.resolve().is_relative_to(self._workspace.resolve()):
            raise ValueError("outside the workspace")
        return file
