"""Numbers and bits of a tensor's bytes, a piece at a time."""

from collections.abc import Iterator
from typing import IO, Any, Final

import numpy
from numpy.typing import NDArray

from secateur.packed.format import PackError, number_bytes
from secateur.safetensors_header import Entry

PIECE: Final = 1 << 20
"""Numbers that are in memory at once; whole bytes of a bitmask."""

Numbers = NDArray[Any]
"""The numbers of a piece as unsigned integers of their width: their bits."""
Bits = NDArray[numpy.uint8]


def pieces(file: IO[bytes], entry: Entry) -> Iterator[bytes]:
    """The bytes of a tensor in a file. Raises PackError where the file ends too early."""
    step = PIECE * (number_bytes(entry.dtype) or 1)
    for begin in range(0, entry.bytes, step):
        file.seek(entry.start + begin)
        yield read_exactly(file, min(step, entry.bytes - begin))


def read_exactly(file: IO[bytes], count: int) -> bytes:
    """So many bytes. Raises PackError."""
    data = file.read(count)
    if len(data) != count:
        raise PackError("a file became shorter while it was read")
    return data


def numbers(data: bytes, width: int) -> Numbers:
    """The numbers of whole bytes of a tensor. width: bytes of one number."""
    return numpy.frombuffer(data, dtype=f"<u{width}")


def bitmask(piece: Numbers) -> Bits:
    """Where a number has a bit that is not zero, which minus zero has; the first number is the highest bit."""
    return numpy.packbits(piece != 0)


def unpack_bits(mask: bytes, count: int) -> NDArray[numpy.bool_]:
    """Of `count` numbers. Raises PackError when the bits behind them are not zero."""
    bits = numpy.unpackbits(numpy.frombuffer(mask, dtype=numpy.uint8))
    if bits[count:].any():
        raise PackError("a bitmask goes on behind its tensor")
    return bits[:count].astype(numpy.bool_)
