"""Sending a dataset."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Final

from secateur.answers import DatasetRead
from secateur.errors import SecateurError
from secateur.transport import Transport
from secateur.wire import Body

FORMATS: Final = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}


async def upload_dataset(
    transport: Transport,
    path: Path,
    name: str | None,
    format: str | None,
    text_field: str | None,
    on_bytes: Callable[[int, int], None] | None,
) -> DatasetRead:
    """Stream a file as a new dataset; what arrives is held against its hash.

    format: txt, jsonl, csv or parquet, behind a point gz or zst when it is packed (csv.gz); None goes by the
    file's name.
    """
    if not path.is_file():
        raise SecateurError(f"there is no file {path}")
    kind, compression, stem = _kind(path, format)
    digest = base64.b64encode(bytes.fromhex(await transport.wire.sha256(path))).decode()
    size = path.stat().st_size
    made: DatasetRead = await transport.create(
        "/v1/datasets/upload",
        params={
            "name": name or stem,
            "format": kind,
            "compression": compression,
            "text_field": text_field if kind != "txt" else None,
        },
        headers={
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            "Content-Digest": f"sha-256=:{digest}:",
        },
        body=Body(path, 0, size, None if on_bytes is None else lambda sent: on_bytes(sent, size)),
    )
    return made


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
