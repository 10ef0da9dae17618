"""The reader of safetensors headers; it believes nothing and never touches the tensors' bytes.

Format: 8 bytes little-endian header length, that many bytes of JSON, then the data. The rules are those of
the safetensors library, plus no duplicate names.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from worker.model_files.errors import IntakeError
from worker.model_files.strict_json import parse_object

HEADER_BYTES: Final = 32 * 2**20
"""Longest header; the library's own bound is 100 MB, of which no real model needs a tenth."""
LENGTH_BYTES: Final = 8
MAX_DIMENSIONS: Final = 8

BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor as its header tells, checked against the file's length. dtype: the format's word, as BF16."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Where in the file its bytes begin."""
    bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file says of itself. tensors: in the order of their names."""

    tensors: dict[str, Entry]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of a safetensors file. Raises IntakeError(safetensors_invalid) when anything is off."""
    name, size = path.name, path.stat().st_size
    with path.open("rb") as file:
        begin = header_end(file.read(LENGTH_BYTES), size, name)
        text = file.read(begin - LENGTH_BYTES)
    if not text.startswith(b"{"):
        raise _invalid(name, "its header is not a JSON object")
    header = parse_object(text, f"The header of {name}")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _invalid(name, "its __metadata__ is not a map of strings")
    tensors = {key: _entry(name, key, header[key], begin) for key in sorted(header)}
    _check_layout(name, tensors, begin, size)
    return Header(tensors, metadata)


def header_end(prefix: bytes, size: int, file: str) -> int:
    """Where the tensors begin in a file of `size` bytes. prefix: its first LENGTH_BYTES. Raises IntakeError."""
    length = int.from_bytes(prefix, "little")
    if size < LENGTH_BYTES or length < 2 or length > min(HEADER_BYTES, size - LENGTH_BYTES):
        raise _invalid(file, "its header length is out of bounds or the file is truncated")
    return LENGTH_BYTES + length


def _entry(file: str, key: str, value: Any, begin: int) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _invalid(file, f"{key} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _invalid(file, f"{key} has an unknown dtype")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise _invalid(file, f"the shape of {key} is not a short list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _invalid(file, f"the offsets of {key} are not a range")
    entry = Entry(dtype, tuple(shape), begin + offsets[0], offsets[1] - offsets[0])
    if entry.elements * BITS[dtype] != entry.bytes * 8:
        raise _invalid(file, f"the shape of {key} does not match its bytes")
    return entry


def _check_layout(file: str, tensors: dict[str, Entry], begin: int, size: int) -> None:
    """The tensors must fill the data exactly: no overlap, no gap, nothing after the last one."""
    position = begin
    for key, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].bytes)):
        if entry.start != position:
            raise _invalid(file, f"{key} overlaps another tensor or leaves a gap")
        position += entry.bytes
    if position > size:
        raise _invalid(file, "the file is truncated")
    if position < size:
        raise _invalid(file, "there are bytes behind the last tensor")


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)


def _invalid(file: str, why: str) -> IntakeError:
    return IntakeError("safetensors_invalid", f"{file} is not a safetensors file: {why}.")
