"""Our own reader of safetensors headers, against files that lie."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from worker.model_files.errors import IntakeError
from worker.model_files.safetensors_header import HEADER_BYTES, read_header


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    """A file with any header (an object, or the text itself) and any data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(start: int, end: int, shape: list[Any], dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_a_file_of_the_library_is_read_as_it_is(tmp_path: Path) -> None:
    tensors = {
        "a.weight": torch.zeros(3, 5),
        "b.bias": torch.zeros(7, dtype=torch.bfloat16),
        "c": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "m.safetensors")
    assert header.metadata == {"format": "pt"}
    assert {name: (entry.dtype, entry.shape) for name, entry in header.tensors.items()} == {
        "a.weight": ("F32", (3, 5)),
        "b.bias": ("BF16", (7,)),
        "c": ("F32", (0, 4)),
    }


BAD: dict[str, tuple[Any, bytes]] = {
    "not an object": ([], b""),
    "no brace first": (b' {"a": 1}', b""),
    "a tensor that is no object": ({"a": 1}, b""),
    "an unknown dtype": ({"a": tensor(0, 4, [1], "F31")}, bytes(4)),
    "a dtype that is a list": ({"a": tensor(0, 4, [1], ["F32"])}, bytes(4)),
    "an unknown key": ({"a": {**tensor(0, 4, [1]), "more": 1}}, bytes(4)),
    "a negative size": ({"a": tensor(0, 4, [-1, -1])}, bytes(4)),
    "a size that is true": ({"a": tensor(0, 4, [True])}, bytes(4)),
    "a size that overflows": ({"a": tensor(0, 4, [2**63, 2])}, bytes(4)),
    "a product that wraps to the right size": ({"a": tensor(0, 4, [2**47, 2**17])}, bytes(4)),
    "too many dimensions": ({"a": tensor(0, 4, [1] * 9)}, bytes(4)),
    "a shape that does not fit the bytes": ({"a": tensor(0, 4, [2])}, bytes(4)),
    "offsets that run backwards": ({"a": tensor(4, 0, [1])}, bytes(4)),
    "offsets of three": ({"a": {**tensor(0, 4, [1]), "data_offsets": [0, 4, 8]}}, bytes(4)),
    "an overlap": ({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)),
    "two tensors in one place": ({"a": tensor(0, 4, [1]), "b": tensor(0, 4, [1])}, bytes(4)),
    "a gap": ({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, bytes(12)),
    "a gap at the start": ({"a": tensor(4, 8, [1])}, bytes(8)),
    "a truncated file": ({"a": tensor(0, 4, [1])}, bytes(3)),
    "bytes behind the end": ({"a": tensor(0, 4, [1])}, bytes(5)),
    "metadata that is no map of strings": ({"__metadata__": {"a": 1}}, b""),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str, tmp_path: Path) -> None:
    header, data = BAD[name]
    with pytest.raises(IntakeError) as caught:
        read_header(write(tmp_path / "m.safetensors", header, data))
    assert caught.value.code == "safetensors_invalid"
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("header", [b'{"a": {}, "a": {}}', b'{"a": NaN}', b"{" * 5000, b'{"a', b'{"\xff": 1}'])
def test_headers_that_are_not_strict_json_are_refused(header: bytes, tmp_path: Path) -> None:
    with pytest.raises(IntakeError, match="not strict JSON"):
        read_header(write(tmp_path / "m.safetensors", header))


@pytest.mark.parametrize("header", [rb'{"\ud800": {}}', rb'{"__metadata__": {"a": "\ud800"}}'])
def test_names_that_are_not_text_are_refused(header: bytes, tmp_path: Path) -> None:
    with pytest.raises(IntakeError, match="not Unicode text"):
        read_header(write(tmp_path / "m.safetensors", header))


@pytest.mark.parametrize("length", [0, 1, 3, HEADER_BYTES + 1, 2**63])
def test_a_header_length_out_of_bounds_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(IntakeError, match="header length"):
        read_header(path)


@pytest.mark.parametrize("data", [b"", b"\2\0\0"])
def test_a_file_without_a_whole_length_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(IntakeError, match="truncated"):
        read_header(tmp_path / "m.safetensors")
