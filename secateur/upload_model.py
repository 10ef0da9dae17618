"""Sending a model folder: file by file, in parts, going on where an earlier try ended."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

from secateur.answers import UploadedFileRead, UploadedFiles
from secateur.errors import NotReachable, ProblemError, SecateurError
from secateur.transport import Json, Transport
from secateur.wire import Body, Wire

PART_BYTES: Final = 64 << 20
"""Sent in one call; what a broken connection costs at the most."""
TRIES: Final = 5
"""Times that one part is sent before it is given up."""
NAMES: Final = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(?:safetensors|json|txt|model|jinja)|(?:LICENSE|NOTICE|USE_POLICY|COPYING)[A-Z_-]*(?:\.(?:md|rst|pdf))?|README\.md"
)
"""What is sent of a folder: a model's files, and its card for the licence. Code and pickles stay."""

OnBytes = Callable[[int, int], None]


async def files_of(wire: Wire, folder: Path) -> list[Json]:
    """Name, size and hash of each file that will be sent. Raises SecateurError for a folder that is no model."""
    if not folder.is_dir():
        raise SecateurError(f"there is no folder {folder}")
    found = sorted(each for each in folder.iterdir() if each.is_file() and NAMES.fullmatch(each.name))
    names = {each.name for each in found}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise SecateurError(
            f"{folder} has no config.json with .safetensors files: save the model with save_pretrained"
        )
    return [{"path": each.name, "bytes": each.stat().st_size, "sha256": await wire.sha256(each)} for each in found]


async def send_files(transport: Transport, model: str, folder: Path, on_bytes: OnBytes | None) -> None:
    """Send what the server has not got. Raises SecateurError, ProblemError, NotReachable."""
    base = f"/v1/models/{quote(model, safe='')}"
    found: UploadedFiles = await transport.call("GET", f"{base}/files")
    listed = found["data"]
    total, done = sum(file["bytes"] for file in listed), sum(file["received"] for file in listed)
    for file in listed:
        path = folder / file["path"]
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            raise SecateurError(f"{path} is not the file that the upload began with; upload the model anew")
        place = f"{base}/files/{quote(file['path'], safe='')}"
        before = received = file["received"]

        def report(received: int, others: int = done - received) -> None:
            if on_bytes is not None:
                on_bytes(others + received, total)

        while received < file["bytes"]:
            received = await _send_part(transport, place, path, received, report)
            report(received)
        done += received - before


async def _send_part(
    transport: Transport, place: str, path: Path, offset: int, report: Callable[[int], None]
) -> int:
    """How much of the file the server has then. After a failure it is asked, for it keeps what had come."""
    for left in reversed(range(TRIES)):
        size = min(PART_BYTES, path.stat().st_size - offset)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Upload-Offset": str(offset),
        }
        try:
            body = Body(path, offset, size, lambda sent, offset=offset: report(offset + sent))  # type: ignore[misc]
            await transport.put(place, headers, body)
        except NotReachable:
            if not left:
                raise
        except ProblemError as error:
            # As when there is no answer, the server is asked how much has come.
            if not left or not (error.code == "offset_mismatch" or error.status in (502, 504)):
                raise
        else:
            return offset + size
        found: UploadedFileRead = await transport.call("GET", place)
        if found["received"] > offset:
            return found["received"]
        offset = found["received"]
    return offset
