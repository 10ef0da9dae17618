"""The object store: immutable objects under content-addressed keys.

Keys are relative paths such as `jobs/job_…/job_…-1/0/<sha256>` (see app/delivery/object_keys.py). An object is
visible whole or not at all: S3 gives that, the folder store writes beside and renames. Open a store after a fork,
never before.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlparse

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from app.settings import Settings

MOST_COPIED: Final = 5 * 2**30
"""Bytes that S3 copies at once; larger objects pass through this process, piece by piece."""
PART_BYTES: Final = 32 * 2**20
"""What one request sends or fetches at the most, so that its time-out is also a bound on silence."""
REQUEST_SECONDS: Final = 60
RETRY_SECONDS: Final = 15
"""The client library itself tries again for so long; workers wait longer, where they can be told to stop."""
CHUNK_BYTES: Final = 1 * 2**20


class StoreError(Exception):
    """The store could not be read or written; trying again may help. Carries no path and no credential."""


class ObjectMissing(StoreError):
    """There is no such object."""


class StoreFull(StoreError):
    """There is no room for the object."""


@contextmanager
def _store_errors(operation: str) -> Iterator[None]:
    """Errors of the client library and the file system as our two."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing(f"{operation}: no such object") from error
    except (BaseError, OSError) as error:
        if os.strerror(errno.ENOSPC) in str(error):
            raise StoreFull(f"{operation} failed: no space left") from error
        raise StoreError(f"{operation} failed ({type(error).__name__})") from error


@dataclass(frozen=True)
class Entry:
    """One object of a listing."""

    key: str
    bytes: int
    modified: datetime
    """By the store's clock."""


@dataclass(frozen=True)
class ObjectStore:
    """Objects below one prefix of one store."""

    client: LocalStore | S3Store
    folder: Path | None = None
    """Root of a folder store; None for S3."""
    signer: S3Store | None = None
    """Makes presigned URLs; None when downloads go through the service."""

    def put_file(self, key: str, path: Path) -> None:
        """Store a file's bytes; large ones in parts. Overwrites (keys name contents, so with the same bytes)."""
        with _store_errors("upload"):
            obstore.put(self.client, key, path, chunk_size=PART_BYTES, max_concurrency=4)
            self._make_durable(key)

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store a small object."""
        with _store_errors("upload"):
            obstore.put(self.client, key, data)
            self._make_durable(key)

    def get(self, key: str) -> bytes:
        """A small object's bytes."""
        with _store_errors("download"):
            return bytes(obstore.get(self.client, key).bytes())

    def download(self, key: str, path: Path, check: Callable[[], None] | None = None) -> None:
        """Write an object's bytes to `path`, which must not be read before this returns.

        `check` is called between pieces and may raise to give up.
        """
        with path.open("wb") as file:
            for piece in self.stream(key):
                if check is not None:
                    check()
                file.write(piece)

    def stream(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Bytes [start, end) of an object in pieces of about a megabyte; an error may come at any piece."""
        size = self.head(key)
        if size is None:
            raise ObjectMissing("download: no such object")
        stop = size if end is None else min(end, size)
        for begin in range(start, stop, PART_BYTES):
            part = (begin, min(begin + PART_BYTES, stop))
            with _store_errors("download"):
                result = obstore.get(self.client, key, options={"range": part})
                for piece in result.stream(min_chunk_size=CHUNK_BYTES):
                    yield bytes(piece)

    def copy(self, key: str, to: str) -> None:
        """A second object with the same bytes, made by the store itself where it can. Overwrites.

        Raises ObjectMissing.
        """
        size = self.head(key)
        with _store_errors("copy"):
            if size is not None and size > MOST_COPIED:
                with obstore.open_writer(self.client, to, buffer_size=PART_BYTES) as writer:
                    for piece in self.stream(key):
                        writer.write(piece)
            else:
                obstore.copy(self.client, key, to, overwrite=True)
            self._make_durable(to)

    def head(self, key: str) -> int | None:
        """Size in bytes, or None when there is no such object."""
        try:
            with _store_errors("look-up"):
                return int(obstore.head(self.client, key)["size"])
        except ObjectMissing:
            return None

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; missing ones are no error."""
        for key in keys:
            try:
                with _store_errors("deletion"):
                    obstore.delete(self.client, key)
            except ObjectMissing:
                continue

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and size of every object below a prefix (a whole folder, without the final slash)."""
        for entry in self.entries(prefix):
            yield entry.key, entry.bytes

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Every object below a prefix (a whole folder, without the final slash)."""
        with _store_errors("listing"):
            for page in obstore.list(self.client, prefix=prefix):
                for item in page:
                    yield Entry(str(item["path"]), int(item["size"]), item["last_modified"])

    def folders(self, prefix: str) -> Iterator[str]:
        """Names one level below a prefix that have objects below them."""
        with _store_errors("listing"):
            found = obstore.list_with_delimiter(self.client, prefix)["common_prefixes"]
        for path in found:
            yield str(path).rstrip("/").rpartition("/")[2]

    def remove_leftovers(self, before: datetime, check: Callable[[], None]) -> int:
        """For a folder store: what uploads have left that were broken off before a moment; how many there were.

        obstore writes `name#1` beside an object and renames it at the end; no listing shows these files. In S3 the
        bucket's own rule aborts such uploads (see docs/operations.md).
        """
        count = 0
        with _store_errors("clearing"):
            for path in self.folder.rglob("*#*") if self.folder is not None else ():
                check()
                with suppress(FileNotFoundError):
                    if path.is_file() and path.stat().st_mtime < before.timestamp():
                        path.unlink()
                        count += 1
        return count

    def remove_empty_folders(self, prefix: str) -> None:
        """For a folder store: the folders of objects that are gone. Nobody may be writing there."""
        if self.folder is not None:
            for path, _, _ in os.walk(self.folder / prefix, topdown=False):
                with suppress(OSError):
                    Path(path).rmdir()

    def presign(self, key: str, seconds: int, method: Literal["GET", "PUT"] = "GET") -> str | None:
        """URL that downloads, or takes, exactly this object for a while; None when that is the service's."""
        if self.signer is None:
            return None
        with _store_errors("signature"):
            return str(obstore.sign(self.signer, method, key, timedelta(seconds=seconds)))

    def reachable(self) -> bool:
        """Whether the store answers at all."""
        try:
            self.head("readyz")
        except StoreError:
            return False
        return self.folder is None or self.folder.is_dir()

    def _make_durable(self, key: str) -> None:
        """For a folder: the file and its name survive a power cut."""
        if self.folder is None:
            return
        path = self.folder / key
        for target in (path, path.parent):
            descriptor = os.open(target, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def open_store(settings: Settings) -> ObjectStore:
    """The store that `settings.store_url` names. Raises ValueError for any other scheme."""
    url = urlparse(settings.store_url)
    if url.scheme == "file":
        folder = Path(unquote(url.path))
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return ObjectStore(LocalStore(folder, automatic_cleanup=False), folder=folder)
    if url.scheme == "s3":
        signer = _open_s3(settings, settings.s3_public_endpoint) if settings.presign_downloads else None
        return ObjectStore(_open_s3(settings, None), signer=signer)
    raise ValueError("SECATEUR_STORE_URL must start with file:/// or s3://")


def _open_s3(settings: Settings, endpoint: str | None) -> S3Store:
    url = urlparse(settings.store_url)
    endpoint = endpoint or settings.s3_endpoint
    key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    return S3Store(
        url.netloc,
        prefix=url.path.strip("/") or None,
        region=settings.s3_region,
        endpoint=endpoint,
        access_key_id=key.get_secret_value() if key else None,
        secret_access_key=secret.get_secret_value() if secret else None,
        virtual_hosted_style_request=endpoint is None,
        client_options={
            "allow_http": endpoint is not None and endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=REQUEST_SECONDS),
        },
        retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )
