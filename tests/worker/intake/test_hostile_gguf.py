"""GGUF files that claim more than they hold, or whose reading has no end: refused as the user's, soon."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from tests.worker.intake.tiny_gguf import write_tiny_gguf
from worker.intake.context import Context
from worker.intake.gguf import convert
from worker.intake.gguf_header import read_gguf_header
from worker.model_files.errors import IntakeError

HUGE = 2**40
UINT8, UINT32, STRING, ARRAY = 0, 4, 8, 9


def string(text: str, length: int | None = None) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data) if length is None else length) + data


def file(*keys: bytes, tensors: int = 0, count: int | None = None, rest: bytes = b"") -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(keys) if count is None else count)
    return head + b"".join(keys) + rest


def key(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, data: bytes = b"") -> bytes:
    return key("a", ARRAY, struct.pack("<IQ", kind, count) + data)


def tensor(*shape: int, kind: int = 0, place: int = 0, dimensions: int | None = None) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    return string("t") + struct.pack(f"<I{len(shape)}QIQ", count, *shape, kind, place)


HOSTILE = {
    "strings": file(array(STRING, HUGE)),
    "numbers": file(array(UINT8, HUGE)),
    "numbers that overflow": file(array(UINT32, 2**62)),
    "a few more than there are": file(array(UINT32, 5, bytes(16))),
    "arrays": file(array(ARRAY, 1, struct.pack("<IQ", ARRAY, 1) * 10_000)),
    "many small entries": file(array(UINT8, 5_000_000, bytes(5_000_000))),
    "keys": file(count=HUGE),
    "tensors": file(tensors=HUGE),
    "a long name": file(string("n", HUGE)),
    "a long string": file(key("a", STRING, string("s", HUGE))),
    "an unknown type": file(key("a", 99, bytes(8))),
    "blocks": file(key("llama.block_count", UINT32, struct.pack("<I", 2**31))),
    "a large tensor": file(tensors=1, rest=tensor(2**20, 2**20) + bytes(64)),
    "dimensions": file(tensors=1, rest=tensor(dimensions=2**31) + bytes(64)),
    "a shape that overflows": file(tensors=1, rest=tensor(2**32, 2**32) + bytes(64)),
    "tensors upon each other": file(tensors=50, rest=tensor(2_000) * 50 + bytes(300)),
    "a tensor far away": file(tensors=1, rest=tensor(1, place=2**62) + bytes(64)),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_claim_is_held_against_the_size_before_any_child_starts(
    data: bytes, context: Context, tmp_path: Path
) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(IntakeError) as caught:
        convert(tmp_path / "m.gguf", "bfloat16", context)
    assert (caught.value.code, list(context.scratch.iterdir())) == ("gguf_unreadable", [])


def test_every_prefix_of_a_header_is_refused_and_the_whole_is_read(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    whole = path.read_bytes()
    header = read_gguf_header(path)
    assert 200 < header.entries < 1_000
    assert 4 * header.weights < len(whole)
    for length in range(0, len(whole) - 4 * header.weights - 100, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(IntakeError):
            read_gguf_header(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"child_memory_bytes": 2**27}, {"memory_limit"}),
        ({"child_seconds": 1.0}, {"cpu_time_limit", "time_limit"}),
    ],
)
def test_a_conversion_that_takes_too_much_is_the_users(
    changes: dict[str, float], codes: set[str], context: Context, tmp_path: Path
) -> None:
    settings = context.settings.model_copy(update=changes | {"threads": 1})
    with pytest.raises(IntakeError) as caught:
        convert(write_tiny_gguf(tmp_path / "m.gguf"), "bfloat16", replace(context, settings=settings))
    assert caught.value.code in codes
    assert caught.value.field == "/source/path"


@pytest.mark.slow
def test_giant_numbers_in_the_keys_are_refused_small(context: Context, tmp_path: Path) -> None:
    """The library would make a matrix of zeros where the file's has another shape."""
    path = write_tiny_gguf(tmp_path / "m.gguf", keys={"llama.vocab_size": 2**31 - 1})
    with pytest.raises(IntakeError) as caught:
        convert(path, "bfloat16", context)
    assert caught.value.code in ("gguf_unsupported", "memory_limit")
