"""Uploads that one process receives: how many a project may send at once, and whether the disk takes them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

from app.kit.problems import Problem
from app.quotas.catalogue import Limits, Quota, QuotaExceeded, StorageQuotaExceeded
from app.storage.disk import RETRY_SECONDS, Watermark

LOOK_EVERY: Final = 16 * 2**20
"""Bytes of an upload between two looks at the disk."""
_WAIT_SECONDS: Final = 10


class NoRoom(Problem):
    status, code, title = 507, "no_room", "The service's disk has no room for uploads at the moment"

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": str(RETRY_SECONDS)})


UPLOADING: Final = (QuotaExceeded, StorageQuotaExceeded, NoRoom)
"""What every call that carries a file can answer."""


class UploadsUnderWay:
    """What one process is receiving."""

    def __init__(self, watermark: Watermark) -> None:
        self._watermark = watermark
        self._lock = Lock()
        self._uploads: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._ahead = 0
        """Announced, and not yet on the disk, of all projects."""

    def used(self, project: str) -> dict[Quota, int]:
        """What the project has under way."""
        return {Quota.uploads: self._uploads[project], Quota.upload_bytes: self._bytes[project]}

    @contextmanager
    def receiving(
        self, project: str, announced: int | None, limits: Limits, storage_left: int | None
    ) -> Iterator["Upload"]:
        """Room for one more, given back at the end. announced: its bytes, when the caller has said so.

        Raises QuotaExceeded, StorageQuotaExceeded, NoRoom; as does what is then received.
        """
        upload = Upload(self, project, limits, storage_left)
        with self._lock:
            self._admit(upload, announced or 0)
        try:
            yield upload
        finally:
            with self._lock:
                self._uploads[project] -= 1
                self._bytes[project] -= upload.counted
                self._ahead -= max(0, upload.counted - upload.received)
                for counter in (self._uploads, self._bytes):
                    if not counter[project]:
                        del counter[project]

    def _admit(self, upload: "Upload", announced: int) -> None:
        used, limit = self._uploads[upload.project], upload.limits[Quota.uploads]
        if limit is not None and used >= limit:
            raise QuotaExceeded(Quota.uploads, limit, used, _WAIT_SECONDS)
        self._check(upload, announced)
        self._uploads[upload.project] += 1
        self._bytes[upload.project] += announced
        self._ahead += announced
        upload.counted = announced

    def _check(self, upload: "Upload", more: int) -> None:
        used, limit = self._bytes[upload.project], upload.limits[Quota.upload_bytes]
        if limit is not None and used + more > limit:
            raise QuotaExceeded(Quota.upload_bytes, limit, used, _WAIT_SECONDS)
        stored, left = upload.limits[Quota.stored_bytes], upload.storage_left
        if stored is not None and left is not None and upload.counted + more > left:
            raise StorageQuotaExceeded(stored, stored - left)
        if (self._ahead + more) * self._watermark.copies() > self._watermark.room():
            raise NoRoom

    def _take(self, upload: "Upload", size: int) -> None:
        """`size` more bytes have come; what was not announced counts from now on."""
        with self._lock:
            upload.received += size
            beyond = upload.received - upload.counted
            if beyond > 0:
                self._check(upload, beyond)
                self._bytes[upload.project] += beyond
                self._ahead -= size - beyond
                upload.counted += beyond
            else:
                self._ahead -= size
            upload.unlooked += size
            if upload.unlooked >= LOOK_EVERY:
                upload.unlooked = 0
                if self._watermark.room() < 0:
                    raise NoRoom


class Upload:
    """One upload while it is received."""

    def __init__(self, those: UploadsUnderWay, project: str, limits: Limits, storage_left: int | None) -> None:
        self._those = those
        self.project = project
        self.limits = limits
        self.storage_left = storage_left
        self.counted = 0
        self.received = 0
        self.unlooked = 0

    def take(self, size: int) -> None:
        """So many bytes have come. Raises QuotaExceeded, StorageQuotaExceeded, NoRoom."""
        self._those._take(self, size)
