"""Receiving a dataset's text: from the network into a scratch file, checked on the way."""

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Final

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from app.datasets.text import TextRefused, TextScanner
from app.kit.problems import Invalid, Unavailable

_PIECE: Final = 2**20
"""Bytes handed to a thread at once."""
ABANDONED_SECONDS: Final = 86_400
"""A file that nobody has written to for so long belongs to no upload."""


class DatasetRefused(Invalid):
    code, title = "dataset_refused", "The text cannot be a dataset"


@asynccontextmanager
async def receive_text(request: Request, folder: Path, scan: TextScanner) -> AsyncIterator[Path]:
    """The request's body in a file that goes away afterwards. Raises DatasetRefused at the first bad line."""
    file = await run_in_threadpool(_open, folder)
    try:
        pending = bytearray()
        async for chunk in request.stream():
            pending += chunk
            if len(pending) >= _PIECE:
                await run_in_threadpool(_take, file, scan, bytes(pending))
                pending.clear()
        await run_in_threadpool(_take, file, scan, bytes(pending))
        await run_in_threadpool(_finish, file, scan)
        yield Path(file.name)
    except TextRefused as error:
        raise DatasetRefused(f"{error}.") from None
    finally:
        await run_in_threadpool(_remove, file)


def _open(folder: Path) -> IO[bytes]:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(folder)
        return tempfile.NamedTemporaryFile(dir=folder, prefix="upload-", delete=False)
    except OSError as error:
        raise _no_disk() from error


def _sweep(folder: Path) -> None:
    """Remove what a process left that was killed while it received."""
    for left in folder.glob("upload-*"):
        with suppress(FileNotFoundError):  # another process sweeps too
            if left.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                left.unlink()


def _take(file: IO[bytes], scan: TextScanner, data: bytes) -> None:
    scan.feed(data)
    try:
        file.write(data)
    except OSError as error:
        raise _no_disk() from error


def _finish(file: IO[bytes], scan: TextScanner) -> None:
    scan.finish()
    try:
        file.flush()
    except OSError as error:
        raise _no_disk() from error


def _remove(file: IO[bytes]) -> None:
    Path(file.name).unlink(missing_ok=True)
    file.close()


def _no_disk() -> Unavailable:
    return Unavailable("There is no room for the upload at the moment.", retry_after=60)
