"""The files of the dashboard's build, as they are answered."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from mimetypes import types_map
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "static"
"""Where the build is put (`ui/build.py`); a package of the service has it in this place."""
PAGE: Final = "index.html"
_TEXTS: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_WORTH_PACKING: Final = 1024


@dataclass(frozen=True)
class File:
    """What is served under one name."""

    content: bytes
    type: str

    @cached_property
    def packed(self) -> bytes | None:
        """The same by gzip; None where it would not be shorter."""
        if len(self.content) < _WORTH_PACKING or not self.type.startswith(("text/", "image/svg")):
            return None
        return gzip.compress(self.content, mtime=0)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()[:32]


def files() -> dict[str, File]:
    """By path below the folder; read once. Empty where nothing was built."""
    return _read() if (FOLDER / PAGE).is_file() else {}


@lru_cache
def _read() -> dict[str, File]:
    found = (path for path in sorted(FOLDER.rglob("*")) if path.is_file())
    return {path.relative_to(FOLDER).as_posix(): _file(path) for path in found}


def _file(path: Path) -> File:
    type = _TEXTS.get(path.suffix) or types_map.get(path.suffix, "application/octet-stream")
    return File(path.read_bytes(), type)
