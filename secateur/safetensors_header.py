"""The reader of safetensors headers; it believes nothing and never touches the tensors' bytes.

Format: 8 bytes little-endian header length, that many bytes of JSON, then the data. The rules are those of
the safetensors library, plus no duplicate names.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from secateur import strict_json

HEADER_BYTES: Final = 32 * 2**20
"""Longest header; the library's own bound is 100 MB, of which no real model needs a tenth."""
LENGTH_BYTES: Final = 8
MAX_DIMENSIONS: Final = 8

BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class HeaderError(ValueError):
    """A file is not what a safetensors file must be. Its text is for the file's owner."""


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
    """What a file says of itself. tensors: in the order of their names. begin: where the first of them begins."""

    tensors: dict[str, Entry]
    metadata: dict[str, str]
    begin: int


def read_header(path: Path) -> Header:
    """The header of a safetensors file. Raises HeaderError when anything is off."""
    name, size = path.name, path.stat().st_size
    with path.open("rb") as file:
        begin = header_end(file.read(LENGTH_BYTES), size, name)
        text = file.read(begin - LENGTH_BYTES)
    header = parse_header(text, name)
    position = data_end(header, name)
    if position > size:
        raise _invalid(name, "the file is truncated")
    if position < size:
        raise _invalid(name, "there are bytes behind the last tensor")
    return header


def header_end(prefix: bytes, size: int, file: str) -> int:
    """Where the tensors begin in a file of `size` bytes. prefix: its first LENGTH_BYTES. Raises HeaderError."""
    length = int.from_bytes(prefix, "little")
    if size < LENGTH_BYTES or length < 2 or length > min(HEADER_BYTES, size - LENGTH_BYTES):
        raise _invalid(file, "its header length is out of bounds or the file is truncated")
    return LENGTH_BYTES + length


def parse_header(text: bytes, file: str) -> Header:
    """A header from its JSON; its tensors fill what is behind it. Raises HeaderError."""
    if not text.startswith(b"{"):
        raise _invalid(file, "its header is not a JSON object")
    try:
        header = strict_json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(file, "its header is not strict JSON") from error
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _invalid(file, "its __metadata__ is not a map of strings")
    try:
        "".join((*header, *metadata, *metadata.values())).encode()
    except UnicodeEncodeError as error:
        raise _invalid(file, "a name in its header is not Unicode text") from error
    begin = LENGTH_BYTES + len(text)
    found = Header({key: _entry(file, key, header[key], begin) for key in sorted(header)}, metadata, begin)
    data_end(found, file)
    return found


def data_end(header: Header, file: str) -> int:
    """Where the last tensor ends. Tensors must fill the data exactly: no overlap, no gap. Raises HeaderError."""
    position = header.begin
    for key, entry in sorted(header.tensors.items(), key=lambda item: (item[1].start, item[1].bytes)):
        if entry.start != position:
            raise _invalid(file, f"{key} overlaps another tensor or leaves a gap")
        position += entry.bytes
    return position


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


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)


def _invalid(file: str, why: str) -> HeaderError:
    return HeaderError(f"{file} is not a safetensors file: {why}.")
