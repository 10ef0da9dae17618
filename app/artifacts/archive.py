"""A tar archive that exists only while it is sent: laid out beforehand, so its size and every range are known."""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

Read = Callable[[int, int], Iterator[bytes]]
"""Bytes [start, end) of a member."""
_BLOCK: Final = tarfile.BLOCKSIZE
_END: Final = 2 * _BLOCK
"""Zeros that end an archive."""


@dataclass(frozen=True)
class Member:
    """One file of the archive."""

    path: str
    bytes: int
    read: Read


@dataclass(frozen=True)
class Archive:
    """Members in their order. No owner, no time: the same files give the same bytes."""

    members: Sequence[Member]

    @property
    def size(self) -> int:
        """Of the whole archive, in bytes."""
        return sum(size for size, _ in self._parts())

    def stream(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes [start, end) of the archive; of what lies outside nothing is read."""
        offset = 0
        for size, read in self._parts():
            first, last = max(start - offset, 0), min(end - offset, size)
            if first < last:
                yield from read(first, last)
            offset += size

    def _parts(self) -> Iterator[tuple[int, Read]]:
        for member in self.members:
            header = _header(member)
            yield len(header), _from(header)
            yield member.bytes, member.read
            padding = bytes(-member.bytes % _BLOCK)
            yield len(padding), _from(padding)
        yield _END, _from(bytes(_END))


def from_bytes(path: str, data: bytes) -> Member:
    """A member that is in memory."""
    return Member(path, len(data), _from(data))


def _header(member: Member) -> bytes:
    """In GNU's form, which has no limit to a file's size."""
    entry = tarfile.TarInfo(member.path)
    entry.size, entry.mode = member.bytes, 0o644
    return entry.tobuf(tarfile.GNU_FORMAT)


def _from(data: bytes) -> Read:
    return lambda start, end: iter([data[start:end]])
