"""Sending a dataset."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from secateur.errors import SecateurError
from secateur.transport import Json, Transport

CHUNK_BYTES: Final = 1 << 20
FORMATS: Final = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl"}
MEDIA_TYPES: Final = {"txt": "text/plain", "jsonl": "application/x-ndjson"}


def upload_dataset(
    transport: Transport, path: Path, name: str | None, format: str | None, text_field: str | None
) -> Json:
    """Stream a file as a new dataset."""
    if not path.is_file():
        raise SecateurError(f"there is no file {path}")
    kind = format or FORMATS.get(path.suffix.lower())
    if kind not in MEDIA_TYPES:
        raise SecateurError(f"{path.name}: the format is not clear from the name; say txt or jsonl")

    def content() -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece

    return transport.create(
        "/v1/datasets",
        params={"name": name or path.stem, "format": kind, "text_field": text_field if kind == "jsonl" else None},
        headers={"Content-Type": MEDIA_TYPES[kind], "Content-Length": str(path.stat().st_size)},
        content=content,
    )
