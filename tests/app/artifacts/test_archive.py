import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from app.artifacts.archive import Archive, Member, from_bytes

LONG = "state/" + "long/" * 40 + "name"
FILES = {"state.json": b"{}", "state/empty": b"", "state/block": bytes(range(256)) * 2, LONG: b"x" * 513}
ARCHIVE = Archive([from_bytes(path, data) for path, data in FILES.items()])
WHOLE = b"".join(ARCHIVE.stream(0, ARCHIVE.size))


def test_tar_reads_it() -> None:
    assert len(WHOLE) == ARCHIVE.size
    with tarfile.open(fileobj=io.BytesIO(WHOLE)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == list(FILES)
        assert {member.name: tar.extractfile(member).read() for member in members} == FILES  # type: ignore[union-attr]
        assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}


@given(st.integers(0, ARCHIVE.size), st.integers(0, ARCHIVE.size))
def test_any_range_is_that_part(start: int, end: int) -> None:
    assert b"".join(ARCHIVE.stream(start, end)) == WHOLE[start:end]


def test_nothing_outside_a_range_is_read() -> None:
    asked: list[tuple[int, int]] = []

    def read(start: int, end: int) -> "list[bytes]":
        asked.append((start, end))
        return [bytes(end - start)]

    big = Member("state/huge", 9 * 2**30, lambda start, end: iter(read(start, end)))
    archive = Archive([big, from_bytes("last", b"abc")])
    assert archive.size > 9 * 2**30
    (header,) = archive.stream(0, 512)
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 9 * 2**30
    assert asked == []
    assert b"".join(archive.stream(512 + 100, 512 + 120)) == bytes(20)
    assert asked == [(100, 120)]
