"""What a GGUF file says of itself, held against its own size before a library believes it.

The library reads as many entries as the file claims, hundreds of bytes of memory for each, also behind its end.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from worker.model_files.errors import IntakeError

VERSIONS: Final = (2, 3)
HEADER_BYTES: Final = 256 * 2**20
"""Longest header. Vocabularies of a quarter of a million tokens take ten."""
MOST_ENTRIES: Final = 4_000_000
"""Elements of all arrays, keys and tensors together; a large vocabulary with its merges has a million."""
MOST_BLOCKS: Final = 1_000
MOST_DIMENSIONS: Final = 4
MOST_WEIGHTS_A_BYTE: Final = 8
"""No encoding has less than one and a half bits a weight; what each has, the library checks."""
LONGEST_NAME: Final = 1_000

STRING, ARRAY = 8, 9
SCALARS: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value → its bytes."""
LEAST_KEY, LEAST_TENSOR, LEAST_STRING = 13, 24, 8
"""Bytes that the shortest one takes: a length, a type and a value; a length, a count, a type and a place."""


@dataclass(frozen=True)
class GgufHeader:
    """entries: of arrays, keys and tensors together. weights: of all tensors, by their shapes."""

    entries: int
    weights: int


def read_gguf_header(path: Path) -> GgufHeader:
    """Raises IntakeError(gguf_unreadable) for what is no GGUF file or claims more than it can hold."""
    with path.open("rb") as file:
        return _Reader(file, path.stat().st_size).read()


class _Reader:
    """Reads forward only; knows at each place how much is left."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._place = 0
        self._end = min(size, HEADER_BYTES)
        self._entries = 0

    def read(self) -> GgufHeader:
        head = self._take(8)
        if head[:4] != b"GGUF" or int.from_bytes(head[4:], "little") not in VERSIONS:
            raise _unreadable("it does not begin as one of version 2 or 3 does")
        tensors, keys = struct.unpack("<QQ", self._take(16))
        self._expect(keys, LEAST_KEY, "keys")
        self._expect(tensors, LEAST_TENSOR, "tensors")
        for _ in range(keys):
            name = self._string(LONGEST_NAME)
            self._value(name, self._number("<I"))
        weights = sum(self._tensor() for _ in range(tensors))
        if weights > MOST_WEIGHTS_A_BYTE * self._size:
            raise _unreadable("its tensors lie upon each other")
        return GgufHeader(self._entries, weights)

    def _value(self, name: bytes, kind: int) -> None:
        if kind == ARRAY:
            self._array()
        elif kind == STRING:
            self._string()
        elif kind in SCALARS:
            value = int.from_bytes(self._take(SCALARS[kind]), "little")
            if name.endswith(b".block_count") and value > MOST_BLOCKS:
                raise _unreadable(f"it claims {value} blocks; a model has at most {MOST_BLOCKS}")
        else:
            raise _unreadable(f"it has a value of the unknown type {kind}")

    def _array(self) -> None:
        kind, count = self._number("<I"), self._number("<Q")
        if kind == STRING:
            self._expect(count, LEAST_STRING, "strings in an array")
            for _ in range(count):
                self._string()
        elif kind in SCALARS:
            self._expect(count, SCALARS[kind], "elements of an array")
            self._skip(count * SCALARS[kind])
        else:
            raise _unreadable("it has an array of arrays, or of a type that there is not")

    def _tensor(self) -> int:
        """Its number of weights."""
        name = self._string(LONGEST_NAME).decode(errors="replace")[:60]
        dimensions = self._number("<I")
        if dimensions > MOST_DIMENSIONS:
            raise _unreadable(f"the tensor {name} has {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
        kind, place = self._number("<I"), self._number("<Q")
        weights: int = math.prod(shape)
        if place > self._size or weights > MOST_WEIGHTS_A_BYTE * self._size:
            raise _unreadable(f"the tensor {name} of the type {kind} does not fit into the file")
        return weights

    def _string(self, longest: int | None = None) -> bytes:
        """Its first bytes, as many as a name may have."""
        length = self._number("<Q")
        if longest is not None and length > longest:
            raise _unreadable(f"it has a name of {length} bytes")
        kept = self._take(min(length, LONGEST_NAME))
        self._skip(length - len(kept))
        return kept

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _expect(self, count: int, least: int, what: str) -> None:
        """Hold a count against the bytes that are left for it."""
        if count * least > self._end - self._place:
            raise _unreadable(f"it claims {count} {what}, more than it has bytes for")
        self._entries += count
        if self._entries > MOST_ENTRIES:
            raise _unreadable(f"it claims more than {MOST_ENTRIES} keys, tensors and elements of arrays")

    def _take(self, length: int) -> bytes:
        if length > self._end - self._place:
            raise _unreadable("it ends in the middle of its header, or that is longer than any")
        self._place += length
        return self._file.read(length)

    def _skip(self, length: int) -> None:
        if length > self._end - self._place:
            raise _unreadable("it ends in the middle of its header, or that is longer than any")
        self._place += length
        self._file.seek(self._place)


def _unreadable(why: str) -> IntakeError:
    return IntakeError(
        "gguf_unreadable", f"This is not a GGUF file that can be read: {why}. Download or convert it again."
    )
