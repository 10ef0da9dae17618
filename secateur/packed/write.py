"""Packing one safetensors file: once over it to count and hash, once more to write."""

import hashlib
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import numpy

from secateur.packed.base import Base
from secateur.packed.bits import Numbers, bitmask, numbers, pieces, read_exactly
from secateur.packed.format import (
    BITMASK,
    KEY,
    MASK_DTYPE,
    PARTS,
    PREFIX,
    VALUES,
    VERSION,
    Check,
    Form,
    PackError,
    dense_prefix,
    number_bytes,
)
from secateur.parts import whole_file
from secateur.safetensors_header import HEADER_BYTES, LENGTH_BYTES, Entry, HeaderError, read_header

_ALIGNMENT: Final = 8


@dataclass(frozen=True)
class _Found:
    """What the first pass has found of a tensor. kept: numbers that are not zero."""

    name: str
    dense: Entry
    sha256: str
    kept: int
    form: Form

    def parts(self) -> Iterator[tuple[str, str, tuple[int, ...], int]]:
        """Name, dtype, shape and bytes of each part."""
        width = number_bytes(self.dense.dtype) or 0
        for part in PARTS[self.form]:
            if part == BITMASK:
                size = (self.dense.elements + 7) // 8
                yield self.name + part, MASK_DTYPE, (size,), size
            elif part == VALUES:
                yield self.name + part, self.dense.dtype, (self.kept,), self.kept * width
            else:
                yield self.name, self.dense.dtype, self.dense.shape, self.dense.bytes


def pack_file(source: Path, folder: Path, base: Base | None = None, check: Check = lambda: None) -> Path:
    """Write `packed-…` of a dense safetensors file into a folder, whole or not at all; its path.

    base: of which masks are enough where a tensor is the base's, or the base's with zeros. The same file and base
    give the same bytes. Raises PackError, and whatever `check` raises.
    """
    try:
        header = read_header(source)
    except HeaderError as error:
        raise PackError(str(error)) from error
    with source.open("rb") as dense:
        text = read_exactly(dense, header.begin)[LENGTH_BYTES:]
        whole = hashlib.sha256(dense_prefix(text))
        ordered = sorted(header.tensors.items(), key=lambda item: (item[1].start, item[1].bytes))
        found = [_look(dense, name, entry, base, whole, check) for name, entry in ordered]
        found = [_without_clash(each, header.tensors) for each in found]
        metadata = {
            KEY: VERSION,
            "file": source.name,
            "header": text.decode(),
            "sha256": whole.hexdigest(),
            "tensors": _json({each.name: {"form": each.form, "sha256": each.sha256} for each in found}),
            "base": base.name if base is not None else "",
        }
        target = folder / (PREFIX + source.name)
        with whole_file(target) as packed:
            _write(dense, packed, found, metadata, check)
    return target


def _look(file: IO[bytes], name: str, entry: Entry, base: Base | None, whole: Any, check: Check) -> _Found:
    """Count, hash, and hold against the base's. whole: the digest of the whole file, which goes on."""
    own, kept, width = hashlib.sha256(), 0, number_bytes(entry.dtype)
    place = base.find(name, entry) if base is not None else None
    same = masked = place is not None
    for data, theirs in _beside(file, entry, place):
        check()
        own.update(data)
        whole.update(data)
        found = numbers(data, width) if width else None
        kept += int(numpy.count_nonzero(found)) if found is not None else 0
        same = same and data == theirs
        if masked and not same:
            masked = found is not None and width is not None and _is_masked(found, numbers(theirs, width))
    return _Found(name, entry, own.hexdigest(), kept, _form(entry, kept, same=same, masked=masked))


def _form(entry: Entry, kept: int, *, same: bool, masked: bool) -> Form:
    """The smallest one."""
    if same or masked:
        return Form.base if same else Form.masked
    width = number_bytes(entry.dtype)
    smaller = width is not None and (entry.elements + 7) // 8 + kept * width < entry.bytes
    return Form.packed if smaller else Form.plain


def _beside(file: IO[bytes], entry: Entry, place: tuple[Path, Entry] | None) -> Iterator[tuple[bytes, bytes]]:
    """Pieces of a tensor, each with the base's."""
    if place is None:
        yield from ((data, b"") for data in pieces(file, entry))
        return
    path, theirs = place
    with path.open("rb") as other:
        yield from zip(pieces(file, entry), pieces(other, theirs), strict=True)


def _is_masked(found: Numbers, theirs: Numbers) -> bool:
    return bool(((found == theirs) | (found == 0)).all())


def _without_clash(found: _Found, names: Container[str]) -> _Found:
    """A tensor whose parts would be called as another one stays as it is."""
    clash = found.form is not Form.base and (found.name + BITMASK in names or found.name + VALUES in names)
    return replace(found, form=Form.plain) if clash else found


def _write(
    dense: IO[bytes], packed: IO[bytes], found: list[_Found], metadata: dict[str, str], check: Check
) -> None:
    """The header, then every part at its place."""
    parts = sorted(
        (-(number_bytes(dtype) or 0), name, dtype, shape, size)  # wide numbers first, so that all are aligned
        for each in found
        for name, dtype, shape, size in each.parts()
    )
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for _, name, dtype, shape, size in parts:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end := end + size]}
    text = _json(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > HEADER_BYTES:
        raise PackError(f"{metadata['file']} has too many tensors to be packed; split it into shards")
    packed.write(dense_prefix(text))
    begin = LENGTH_BYTES + len(text)
    places = {name: begin + int(header[name]["data_offsets"][0]) for _, name, *_ in parts}
    for each in found:
        _write_parts(dense, packed, each, places, check)
    packed.truncate(begin + end)


def _write_parts(
    dense: IO[bytes], packed: IO[bytes], found: _Found, places: Mapping[str, int], check: Check
) -> None:
    """A tensor's parts, which must be what they were when they were counted."""
    if found.form is Form.base:
        return
    again = hashlib.sha256()
    at = {part: places[found.name + part] for part in PARTS[found.form]}
    width = number_bytes(found.dense.dtype) or 1
    for data in pieces(dense, found.dense):
        check()
        again.update(data)
        for part in at:
            content = _content(part, data, width)
            packed.seek(at[part])
            at[part] += packed.write(content)
    if again.hexdigest() != found.sha256:
        raise PackError(f"{found.name} changed while it was packed")


def _content(part: str, data: bytes, width: int) -> bytes:
    if part == BITMASK:
        return bitmask(numbers(data, width)).tobytes()
    if part == VALUES:
        found = numbers(data, width)
        return bytes(found[found != 0].tobytes())
    return data


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
