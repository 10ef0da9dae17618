"""Headers of strangers' safetensors files: what is off is the user's to mend."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur import safetensors_header
from secateur.safetensors_header import HEADER_BYTES, LENGTH_BYTES, Entry, Header, HeaderError
from worker.model_files.errors import IntakeError

__all__ = ["HEADER_BYTES", "LENGTH_BYTES", "Entry", "Header", "header_end", "read_header"]


def read_header(path: Path) -> Header:
    """The header of a safetensors file. Raises IntakeError(safetensors_invalid) when anything is off."""
    with _blaming():
        return safetensors_header.read_header(path)


def header_end(prefix: bytes, size: int, file: str) -> int:
    """Where the tensors begin in a file of `size` bytes. prefix: its first LENGTH_BYTES. Raises IntakeError."""
    with _blaming():
        return safetensors_header.header_end(prefix, size, file)


@contextmanager
def _blaming() -> Iterator[None]:
    try:
        yield
    except HeaderError as error:
        raise IntakeError("safetensors_invalid", str(error)) from error
