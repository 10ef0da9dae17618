"""Sending a dataset."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from secateur.errors import SecateurError
from secateur.transport import Json, Transport

CHUNK_BYTES: Final = 1 << 20
FORMATS: Final = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}


def upload_dataset(
    transport: Transport, path: Path, name: str | None, format: str | None, text_field: str | None
) -> Json:
    """Stream a file as a new dataset; what arrives is held against its hash.

    format: txt, jsonl, csv or parquet, behind a point gz or zst when it is packed (csv.gz); None goes by the
    file's name.
    """
    if not path.is_file():
        raise SecateurError(f"there is no file {path}")
    kind, compression, stem = _kind(path, format)

    def content() -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece

    digest = hashlib.sha256()
    for piece in content():
        digest.update(piece)
    return transport.create(
        "/v1/datasets/upload",
        params={
            "name": name or stem,
            "format": kind,
            "compression": compression,
            "text_field": text_field if kind != "txt" else None,
        },
        headers={
            "Content-Type": "application/octet-stream",
            "Content-Length": str(path.stat().st_size),
            "Content-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
        },
        content=content,
    )


def _kind(path: Path, format: str | None) -> tuple[str, str | None, str]:
    """Format, compression and the name without its endings."""
    said = Path(f"x.{format.lower()}") if format is not None else path
    stem = path.stem if path.suffix.lower() not in COMPRESSIONS else Path(path.stem).stem
    compression = COMPRESSIONS.get(said.suffix.lower())
    if compression is not None:
        said = Path(said.stem)
    kind = FORMATS.get(said.suffix.lower())
    if kind is None:
        formats = ", ".join(dict.fromkeys(FORMATS.values()))
        raise SecateurError(f"{path.name}: the format is not clear; say {formats}, each also with .gz or .zst")
    return kind, compression, stem
