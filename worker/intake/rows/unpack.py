"""A file as it was sent becomes a plain one, within bounds; text is looked through before anybody parses it."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from app.datasets.text import GROWTH_SLACK, MAX_LINE_BYTES, MOST_GROWTH
from worker.model_files.errors import IntakeError

PIECE: Final = 2**20
KINDS: Final = {".gz": "gzip", ".zst": "zstd"}
"""Endings of packed files."""


def too_large(limit: int, field: str | None) -> IntakeError:
    """The refusal of a text above the service's limit."""
    message = (
        f"The text is larger than the {limit} bytes that this service takes; choose or send a smaller part of it."
    )
    return IntakeError("dataset_too_large", message, field)


def check_ratio(name: str, unpacked: int, packed: int) -> None:
    """Refuse what was made to be small only on the way."""
    if unpacked > MOST_GROWTH * packed + GROWTH_SLACK:
        raise IntakeError("compression_ratio", f"{name} unpacks to more than {MOST_GROWTH} times its size.")


def unpack(path: Path, name: str, compression: str, limit: int, target: Path) -> Path:
    """The plain file: `path` itself when nothing is packed, else `target`. Raises IntakeError."""
    if compression == "none":
        return path
    packed, total = path.stat().st_size, 0
    with target.open("wb") as out:
        for piece in _pieces(path, name, compression):
            total += len(piece)
            check_ratio(name, total, packed)
            if total > limit:
                raise too_large(limit, None)
            out.write(piece)
    return target


def _pieces(path: Path, name: str, compression: str) -> Iterator[bytes]:
    """pyarrow bounds zstd's window to 128 MiB, and says when the end is cut off."""
    try:
        with pa.input_stream(str(path), compression=compression) as stream:
            while piece := stream.read(PIECE):
                yield piece
    except (pa.ArrowException, OSError) as error:
        what = "is cut off" if "Truncated" in str(error) else f"is not valid {compression} data"
        if "too much memory" in str(error):
            what = "needs a window of more than 128 MiB to unpack; pack it without --long or --ultra"
        raise IntakeError("compression_invalid", f"{name} {what}.") from error


def check_text(path: Path, name: str, longest: int = MAX_LINE_BYTES) -> None:
    """Refuse what is not UTF-8, has a NUL, or a line longer than a parser should hold."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, length = 1, 0
    with path.open("rb") as file:
        while True:
            piece = file.read(PIECE)
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                place = line + error.object[: error.start].count(b"\n")
                raise IntakeError("invalid_unicode", f"{name}: line {place} is not UTF-8; convert it.") from None
            if not piece:
                return
            if b"\0" in piece:
                place = line + piece[: piece.index(b"\0")].count(b"\n")
                raise IntakeError("text_nul", f"{name}: line {place} has a NUL character; remove it.")
            for number, part in enumerate(piece.split(b"\n")):
                length = length + len(part) if number == 0 else len(part)
                if length > longest:
                    message = f"{name}: line {line + number} is longer than {longest} bytes; split the document."
                    raise IntakeError("line_too_long", message)
            line += piece.count(b"\n")
