"""Texts out of files that may be anything."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.datasets.text import MAX_LINE_BYTES
from worker.intake.dataset_text import TextFile
from worker.model_files.errors import IntakeError


def texts(
    folder: Path, name: str, data: bytes | pa.Table, field: str = "text", limit: int = 10**7
) -> list[str | None]:
    path = folder / "file"
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        pq.write_table(data, path)
    return list(TextFile(path, name, field, limit, lambda: None).texts())


def refusal(*args: Any, **options: Any) -> IntakeError:
    with pytest.raises(IntakeError) as caught:
        texts(*args, **options)
    assert str(args[0]) not in caught.value.message
    return caught.value


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_text_in_order(kind: Any, tmp_path: Path) -> None:
    rows = ["one", None, "", "ünï\u2028", "one"] * 500
    table = pa.table({"text": pa.array(rows, pa.string()).cast(kind), "id": list(range(2500))})
    assert texts(tmp_path, "a.parquet", table) == rows


def test_parquet_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    error = refusal(tmp_path, "a.parquet", pa.table({"content": ["x"], "id": [1]}))
    assert (error.code, error.field) == ("text_field_missing", "/hub/text_field")
    assert "content, id" in error.message


def test_a_parquet_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, "a.parquet", pa.table({"text": [[1, 2]]}))
    assert error.code == "text_field_type"


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(99) + b"PAR1", b"x" * 500])
def test_a_broken_parquet_file_is_refused(data: bytes, tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.parquet", data).code == "parquet_invalid"


def test_a_parquet_file_broken_in_the_middle_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [str(i) * 50 for i in range(5000)]}), tmp_path / "whole")
    data = bytearray((tmp_path / "whole").read_bytes())
    data[200:2000] = b"\xff" * 1800
    assert refusal(tmp_path, "a.parquet", bytes(data)).code == "parquet_invalid"


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    raw = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"], pa.binary()).buffers())
    assert refusal(tmp_path, "a.parquet", pa.table({"text": raw})).code == "parquet_invalid"


def test_a_parquet_bomb_is_refused_by_its_own_figures(tmp_path: Path) -> None:
    table = pa.table({"text": ["0" * 20_000_000]})
    pq.write_table(table, tmp_path / "bomb", compression="zstd")
    assert (
        refusal(tmp_path, "a.parquet", (tmp_path / "bomb").read_bytes(), limit=10**9).code == "compression_ratio"
    )


def test_a_parquet_file_above_the_limit_is_refused(tmp_path: Path) -> None:
    table = pa.table({"text": [str(i) * 20 for i in range(1000)]})
    assert refusal(tmp_path, "a.parquet", table, limit=1000).code == "dataset_too_large"


def test_json_lines(tmp_path: Path) -> None:
    data = b'{"text": "one", "id": 1}\n\n{"text": null}\n{"text": "\\ud83d\\ude00"}'
    assert texts(tmp_path, "a.jsonl", data) == ["one", None, "😀"]
    assert texts(tmp_path, "a.json.gz", gzip.compress(data)) == ["one", None, "😀"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'[{"text": "one"}]', "invalid_json"),
        (b'{"text": "one"', "invalid_json"),
        (b'{"text": "\xff"}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"body": "one"}', "text_field_missing"),
        (b'{"text": 3}', "text_field_type"),
        (b'{"text": "' + b"x" * MAX_LINE_BYTES + b'"}', "line_too_long"),
    ],
)
def test_lines_that_are_no_rows_are_refused(data: bytes, expected: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.jsonl", data, limit=10**9).code == expected


def test_plain_text_is_a_document_a_line(tmp_path: Path) -> None:
    assert texts(tmp_path, "a.txt", "one\r\n\nzwölf".encode()) == ["one", "", "zwölf"]
    assert refusal(tmp_path, "a.txt", b"one", field="body").code == "text_field_missing"
    assert refusal(tmp_path, "a.txt", b"\xff").code == "invalid_unicode"


def test_lines_that_are_no_rows_can_be_left_off(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def check() -> None:
        raise Stop

    (tmp_path / "file").write_bytes(b"\n" * 2000)
    with pytest.raises(Stop):
        list(TextFile(tmp_path / "file", "a.jsonl", "text", 10**6, check).texts())


def test_gzip_bombs_and_broken_gzip_are_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(b"a\n" * 10_000_000)
    assert refusal(tmp_path, "a.txt.gz", bomb, limit=10**9).code == "compression_ratio"
    assert refusal(tmp_path, "a.txt.gz", gzip.compress(b"one")[:-6]).code == "gzip_invalid"
    assert refusal(tmp_path, "a.txt.gz", b"one").code == "gzip_invalid"
