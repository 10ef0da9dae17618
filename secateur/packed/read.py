"""Unpacking: the dense bytes of a packed file, each tensor checked against its digest."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy
from numpy.typing import NDArray

from secateur.packed.base import Base
from secateur.packed.bits import PIECE, numbers, pieces, read_exactly, unpack_bits
from secateur.packed.format import (
    BITMASK,
    VALUES,
    Check,
    Form,
    PackedFile,
    PackedTensor,
    PackError,
    dense_prefix,
    number_bytes,
    read_packed,
)
from secateur.parts import whole_file


def unpack_file(source: Path, folder: Path, base: Base | None = None, check: Check = lambda: None) -> Path:
    """Write the dense file of a packed one into a folder, whole and with its sha256 or not at all; its path.

    base: the dense model, for a file of masks. Raises PackError, and whatever `check` raises.
    """
    packed = read_packed(source)
    target, whole = folder / packed.file, hashlib.sha256()
    with whole_file(target) as dense:
        for data in _file_pieces(packed, base):
            check()
            whole.update(data)
            dense.write(data)
        if whole.hexdigest() != packed.sha256:
            raise PackError(f"{packed.file} is not what was packed, by its sha256; fetch {source.name} again")
    return target


def _file_pieces(packed: PackedFile, base: Base | None) -> Iterator[bytes]:
    yield dense_prefix(packed.header)
    for tensor in packed.tensors:
        yield from dense_pieces(packed, tensor, base)


def dense_pieces(packed: PackedFile, tensor: PackedTensor, base: Base | None) -> Iterator[bytes]:
    """The bytes of a dense tensor. Raises PackError, at the latest after the last piece for one that is not what
    was packed."""
    digest = hashlib.sha256()
    for data in _pieces(packed, tensor, base):
        digest.update(data)
        yield data
    if digest.hexdigest() == tensor.sha256:
        return
    if tensor.form in (Form.masked, Form.base):
        raise PackError(f"{tensor.name} of this base model is not the one that the masks are of ({packed.base})")
    raise PackError(f"{tensor.name} is not what was packed: its sha256 is another; fetch {packed.path.name} again")


def _pieces(packed: PackedFile, tensor: PackedTensor, base: Base | None) -> Iterator[bytes]:
    with ExitStack() as stack:
        own = stack.enter_context(packed.path.open("rb"))
        match tensor.form:
            case Form.plain:
                yield from pieces(own, packed.parts[tensor.name])
            case Form.packed:
                values = stack.enter_context(packed.path.open("rb"))
                yield from _filled(packed, tensor, own, values)
            case Form.masked:
                theirs = _of_base(packed, tensor, base, stack)
                yield from _kept(packed, tensor, own, theirs)
            case Form.base:
                yield from _of_base(packed, tensor, base, stack)


def _of_base(packed: PackedFile, tensor: PackedTensor, base: Base | None, stack: ExitStack) -> Iterator[bytes]:
    if base is None:
        name = f" ({packed.base})" if packed.base else ""
        raise PackError(f"{packed.path.name} holds masks: name the folder of the dense model{name} as the base")
    place = base.find(tensor.name, tensor.dense)
    if place is None:
        raise PackError(f"the base model has no {tensor.name} of this shape and dtype")
    path, entry = place
    return pieces(stack.enter_context(path.open("rb")), entry)


def _filled(packed: PackedFile, tensor: PackedTensor, own: IO[bytes], values: IO[bytes]) -> Iterator[bytes]:
    """Values put where the bitmask has them, zeros elsewhere."""
    width = number_bytes(tensor.dense.dtype) or 1
    stored = packed.parts[tensor.name + VALUES]
    values.seek(stored.start)
    left = stored.elements
    for mask in _masks(packed, tensor, own):
        count = int(numpy.count_nonzero(mask))
        left -= count
        if left < 0:
            raise _miscounted(packed, tensor)
        dense = numpy.zeros(len(mask), dtype=f"<u{width}")
        dense[mask] = numbers(read_exactly(values, count * width), width)
        yield dense.tobytes()
    if left:
        raise _miscounted(packed, tensor)


def _kept(packed: PackedFile, tensor: PackedTensor, own: IO[bytes], theirs: Iterator[bytes]) -> Iterator[bytes]:
    """The base's numbers where the bitmask has them, zeros elsewhere."""
    width = number_bytes(tensor.dense.dtype) or 1
    for mask, data in zip(_masks(packed, tensor, own), theirs, strict=True):
        yield numpy.where(mask, numbers(data, width), numpy.zeros(1, dtype=f"<u{width}")).tobytes()


def _masks(packed: PackedFile, tensor: PackedTensor, own: IO[bytes]) -> Iterator[NDArray[numpy.bool_]]:
    """The bitmask, as many numbers at a time as a piece has."""
    start = packed.parts[tensor.name + BITMASK].start
    for begin in range(0, tensor.dense.elements, PIECE):
        count = min(PIECE, tensor.dense.elements - begin)
        own.seek(start + begin // 8)
        yield unpack_bits(read_exactly(own, (count + 7) // 8), count)


def _miscounted(packed: PackedFile, tensor: PackedTensor) -> PackError:
    return PackError(
        f"{packed.path.name} is not a whole packed file: {tensor.name} has not as many values as its bitmask "
        "keeps; fetch it again"
    )
