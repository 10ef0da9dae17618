"""Digests of files and of trees of files: what manifests, models and checkpoints are named by."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(pairs: Iterable[tuple[str, str]]) -> str:
    """Hex sha256 over the (path, sha256) pairs of a tree, in the order of the paths' bytes.

    The hashed text is that of `sha256sum` with the paths sorted, so that anybody can check a downloaded
    folder: `find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`.
    Raises ValueError for a path that is named twice or would break its line.
    """
    digest = hashlib.sha256()
    last: str | None = None
    for path, sha256 in sorted(pairs):
        if path == last:
            raise ValueError("a path is named twice")
        if not path or any(sign in path for sign in "\n\r\\\0"):
            raise ValueError("a path that sha256sum would not print as it is")
        digest.update(f"{sha256}  {path}\n".encode())
        last = path
    return digest.hexdigest()
