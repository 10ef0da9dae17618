"""Receiving a dataset's file: from the network into a scratch file, checked and hashed on the way."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final, Protocol

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from app.datasets.text import TextRefused
from app.kit.problems import FieldError, Invalid
from app.kit.scratch import flush_scratch, open_scratch, remove_scratch, write_scratch

_PIECE: Final = 2**20
"""Bytes handed to a thread at once."""
MAGIC: Final = {
    "gzip": (b"\x1f\x8b", "gzip data"),
    "zstd": (b"\x28\xb5\x2f\xfd", "zstd data"),
    "parquet": (b"PAR1", "a Parquet file"),
}
"""How a file of that compression or format begins."""
_SHA256: Final = re.compile(r"(?:^|[,\s])sha-256=:([A-Za-z0-9+/]{43}=):", re.ASCII)


class DatasetRefused(Invalid):
    code, title = "dataset_refused", "The text cannot be a dataset"


class DigestMismatch(Invalid):
    code, title = "digest_mismatch", "The bytes that arrived are not those that were announced"


class Scanner(Protocol):
    """Looks at the bytes while they come."""

    @property
    def sha256(self) -> str: ...
    def feed(self, data: bytes) -> None: ...
    def finish(self) -> None: ...


class FileScanner:
    """Counts and hashes a file that is read later; only how it begins is checked."""

    def __init__(self, format: str, compression: str) -> None:
        self._magic, self._kind = MAGIC.get(compression) or MAGIC.get(format) or (b"", "")
        self._head = b""
        self._hash = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        """Hex sha256 of all bytes so far."""
        return self._hash.hexdigest()

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises TextRefused."""
        self._hash.update(data)
        self.bytes += len(data)
        if len(self._head) < len(self._magic):
            self._head += data[: len(self._magic) - len(self._head)]
            if not self._magic.startswith(self._head):
                raise self._wrong_kind()

    def finish(self) -> None:
        """No more bytes. Raises TextRefused."""
        if not self.bytes:
            raise TextRefused("the file is empty")
        if self._head != self._magic:
            raise self._wrong_kind()

    def _wrong_kind(self) -> TextRefused:
        return TextRefused(f"this is not {self._kind}; `format` and `compression` must say what is sent")


def announced_digest(request: Request) -> str | None:
    """Hex sha256 of the body by the caller's own Content-Digest or Repr-Digest (RFC 9530). Raises Invalid."""
    found = None
    for name in ("content-digest", "repr-digest"):
        text = request.headers.get(name)
        if text is None:
            continue
        match = _SHA256.search(text)
        if match is None:
            raise Invalid(errors=[FieldError("must have the form sha-256=:BASE64:", parameter=name)])
        digest = base64.b64decode(match.group(1)).hex()
        if found not in (None, digest):
            raise Invalid(errors=[FieldError("is not what content-digest says", parameter=name)])
        found = digest
    return found


@asynccontextmanager
async def receive(request: Request, folder: Path, scan: Scanner) -> AsyncIterator[Path]:
    """The request's body in a file that goes away afterwards.

    Raises DatasetRefused at the first bad line, DigestMismatch.
    """
    expected = announced_digest(request)
    file = await run_in_threadpool(open_scratch, folder)
    try:
        pending = bytearray()
        async for chunk in request.stream():
            pending += chunk
            if len(pending) >= _PIECE:
                await run_in_threadpool(_take, file, scan, bytes(pending))
                pending.clear()
        await run_in_threadpool(_take, file, scan, bytes(pending))
        await run_in_threadpool(_finish, file, scan)
        if expected not in (None, scan.sha256):
            raise DigestMismatch(f"Their sha-256 is {scan.sha256}, not {expected}; send the file again.")
        yield Path(file.name)
    except TextRefused as error:
        raise DatasetRefused(f"{error}.") from None
    finally:
        await run_in_threadpool(remove_scratch, file)


def _take(file: IO[bytes], scan: Scanner, data: bytes) -> None:
    scan.feed(data)
    write_scratch(file, data)


def _finish(file: IO[bytes], scan: Scanner) -> None:
    scan.finish()
    flush_scratch(file)
