"""Files that the client writes: its own and through no link, whatever somebody has prepared under their names."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from secateur.errors import UnsafePath


def open_part(path: Path) -> IO[bytes]:
    """A file to read and write, made when missing. Raises UnsafePath for a link, hard or symbolic, or no file."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise UnsafePath(f"{path} is there already and is no file of ours: remove it") from None
        raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(handle)
        raise UnsafePath(f"{path} is there already and is no file of ours: remove it")
    return os.fdopen(handle, "r+b")


def refuse_links(folder: Path, path: str) -> Path:
    """Where a relative path is below a folder. Raises UnsafePath for a symbolic link there or on the way."""
    here = folder
    for name in path.split("/"):
        here = here / name
        if here.is_symlink():
            raise UnsafePath(f"a symbolic link is where {path!r} is to be written: {here}")
    return here


@contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """A file to write that gets its name once the body has ended well, and else is gone. Raises UnsafePath."""
    part = target.with_name(f".{target.name}.part")
    with open_part(part) as file:
        try:
            file.truncate()
            yield file
        except BaseException:
            part.unlink()
            raise
    part.replace(target)
