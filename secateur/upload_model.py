"""Sending a model folder: file by file, in parts, going on where an earlier try ended."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from secateur.digests import file_sha256
from secateur.errors import NotReachable, ProblemError, SecateurError
from secateur.transport import Json, Transport

PART_BYTES: Final = 64 << 20
"""Sent in one call; what a broken connection costs at the most."""
CHUNK_BYTES: Final = 1 << 20
TRIES: Final = 5
"""Times that one part is sent before it is given up."""
NAMES: Final = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(?:safetensors|json|txt|model|jinja)|(?:LICENSE|NOTICE|USE_POLICY|COPYING)[A-Z_-]*(?:\.(?:md|rst|pdf))?"
)
"""Files of a folder that belong to a model. Others stay where they are: code, pickles, READMEs."""

OnBytes = Callable[[int, int], None]


def files_of(folder: Path) -> list[Json]:
    """Name, size and hash of each file that will be sent. Raises SecateurError for a folder that is no model."""
    if not folder.is_dir():
        raise SecateurError(f"there is no folder {folder}")
    found = sorted(each for each in folder.iterdir() if each.is_file() and NAMES.fullmatch(each.name))
    names = {each.name for each in found}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise SecateurError(
            f"{folder} has no config.json with .safetensors files: save the model with save_pretrained"
        )
    return [{"path": each.name, "bytes": each.stat().st_size, "sha256": file_sha256(each)} for each in found]


def send_files(transport: Transport, model: str, folder: Path, on_bytes: OnBytes | None) -> None:
    """Send what the server has not got. Raises SecateurError, ProblemError, NotReachable."""
    base = f"/v1/models/{quote(model, safe='')}"
    listed = transport.call("GET", f"{base}/files")["data"]
    total, done = sum(file["bytes"] for file in listed), sum(file["received"] for file in listed)
    for file in listed:
        path = folder / file["path"]
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            raise SecateurError(f"{path} is not the file that the upload began with; upload the model anew")
        place = f"{base}/files/{quote(file['path'], safe='')}"
        received = file["received"]
        while received < file["bytes"]:
            before, received = received, _send_part(transport, place, path, received)
            done += received - before
            if on_bytes is not None:
                on_bytes(done, total)


def _send_part(transport: Transport, place: str, path: Path, offset: int) -> int:
    """How much of the file the server has then. After a failure it is asked, for it keeps what had come."""
    for left in reversed(range(TRIES)):
        size = min(PART_BYTES, path.stat().st_size - offset)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Upload-Offset": str(offset),
        }
        start = offset
        try:
            transport.put(place, headers, lambda start=start, size=size: _read(path, start, size))  # type: ignore[misc]
        except NotReachable:
            if not left:
                raise
        except ProblemError as error:
            if error.code != "offset_mismatch" or not left:
                raise
        else:
            return offset + size
        received = int(transport.call("GET", place)["received"])
        if received > offset:
            return received
        offset = received
    return offset


def _read(path: Path, start: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while size and (piece := file.read(min(CHUNK_BYTES, size))):
            size -= len(piece)
            yield piece
