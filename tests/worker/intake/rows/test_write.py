"""Texts out of files that may be anything, in this process: what the child does once it is in its limits."""

import csv
import gzip
import io
import json
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from app.datasets.text import MAX_LINE_BYTES
from worker.intake.rows.write import Reading, write
from worker.model_files.errors import IntakeError

MODULES = {"parquet": "parquet", "csv": "csv", "tsv": "csv", "jsonl": "json", "json": "json", "txt": "text"}
PACK = {"none": bytes, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def table_bytes(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def read(
    folder: Path,
    name: str,
    data: bytes | pa.Table,
    field: str | None = None,
    limit: int = 10**7,
    module: str | None = None,
    compression: str = "none",
) -> tuple[list[Any], dict[str, Any]]:
    """The documents, and the facts. Every reading has a folder of its own."""
    folder = Path(mkdtemp(dir=folder))
    path = folder / "sent"
    path.write_bytes(data if isinstance(data, bytes) else table_bytes(data))
    file = {
        "path": str(path),
        "name": name,
        "module": module or MODULES[name.rpartition(".")[2]],
        "compression": compression,
    }
    request = {"files": [file], "field": field, "limit": limit, "scratch": str(folder), "pointer": "/hub"}
    target = folder / "target"
    facts = write(Reading.of(request), target, lambda told: None)
    if facts["format"] == "txt":
        return [target.read_text()], facts
    return [json.loads(line)[facts["text_field"]] for line in target.read_bytes().splitlines()], facts


def refusal(*args: Any, **options: Any) -> IntakeError:
    with pytest.raises(IntakeError) as caught:
        read(*args, **options)
    assert str(args[0]) not in caught.value.message
    return caught.value


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_text_in_order(kind: Any, tmp_path: Path) -> None:
    rows = ["one", None, "", "ünï\u2028", "one"] * 500
    table = pa.table({"text": pa.array(rows, pa.string()).cast(kind), "id": list(range(2500))})
    found, facts = read(tmp_path, "a.parquet", table)
    assert found == [row for row in rows if row is not None]
    assert (facts["documents"], facts["null_rows"], facts["format"]) == (2000, 500, "jsonl")


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_the_same_rows_of_every_format_and_compression_are_the_same_text(compression: str, tmp_path: Path) -> None:
    texts = ["one", "007", 'with "quotes", commas\nand lines', "NA", "null", "ünï 😀"]
    sheet = io.StringIO()
    csv.writer(sheet).writerows([("id", "text"), *enumerate(texts)])
    files = {
        "a.csv": sheet.getvalue().encode(),
        "b.csv": b"\xef\xbb\xbf" + sheet.getvalue().replace("\r\n", "\n").encode(),
        "c.parquet": table_bytes(pa.table({"text": texts})),
        "d.jsonl": lines(*({"text": text, "meta": {"n": n}} for n, text in enumerate(texts))),
        "e.json": json.dumps([{"text": text} for text in texts]).encode(),
    }
    hashes = set()
    for name, data in files.items():
        found, facts = read(tmp_path, name, PACK[compression](data), compression=compression)
        assert found == texts, name
        hashes.add(facts["sha256"])
    assert len(hashes) == 1


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_conversations_are_brought_into_one_form(name: str, tmp_path: Path) -> None:
    told = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    for key, value in (("messages", CHAT), ("conversations", told)):
        data = pa.table({key: [value], "id": [1]}) if name == "a.parquet" else lines({key: value, "id": 1})
        found, facts = read(tmp_path, name, data)
        assert found == [CHAT]
        assert (facts["format"], facts["text_field"], facts["characters"]) == ("chat", "messages", 7)


def test_a_column_is_chosen_by_name_and_a_text_goes_before_messages(tmp_path: Path) -> None:
    data = lines({"text": "a", "messages": CHAT, "body": "b"})
    assert read(tmp_path, "a.jsonl", data)[0] == ["a"]
    assert read(tmp_path, "a.jsonl", data, "body")[0] == ["b"]
    assert read(tmp_path, "a.jsonl", data, "messages")[0] == [CHAT]


def test_messages_may_have_fields_of_their_own(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]}
    other = {**call, "tool_calls": [{"name": "g", "arguments": {"b": ["x"]}}], "weight": None}
    rows = [[CHAT[0], call], [{**CHAT[0], "name": "n"}, other]]
    found, _ = read(tmp_path, "a.jsonl", lines(*({"messages": row} for row in rows)))
    assert found == [rows[0], [rows[1][0], {key: value for key, value in other.items() if value is not None}]]


def test_texts_that_look_like_something_else_stay_texts(tmp_path: Path) -> None:
    texts = ["007", "1.50", "true", "null", '{"a": 1}', "[1]", "x"]
    assert read(tmp_path, "a.jsonl", lines(*({"text": text} for text in texts)))[0] == texts


def test_fields_that_come_and_go_are_nobodys_business(tmp_path: Path) -> None:
    rows = [{"text": f"{n}" * 50, **({"extra": n} if n > 30_000 else {})} for n in range(40_000)]
    rows.append({"text": "last", "meta": ["another", "kind"]})
    found, _ = read(tmp_path, "a.jsonl", lines(*rows))
    assert found == [row["text"] for row in rows]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_packed_text_is_the_text_itself(compression: str, tmp_path: Path) -> None:
    plain = "Es war einmal\nein Käse.\n".encode()
    found, facts = read(tmp_path, "upload.txt", PACK[compression](plain), module="scan", compression=compression)
    assert (found, facts["format"], facts["bytes"]) == ([plain.decode()], "txt", len(plain))
    rows = lines({"body": "one"}, {"body": "two"})
    data = PACK[compression](rows)
    _, facts = read(tmp_path, "upload.jsonl", data, "body", module="scan", compression=compression)
    assert (facts["documents"], facts["text_field"], facts["bytes"]) == (2, "body", len(rows))
    error = refusal(tmp_path, "upload.jsonl", data, "text", module="scan", compression=compression)
    assert (error.code, error.message[:7]) == ("dataset_refused", "line 1:")


@pytest.mark.parametrize(
    ("name", "data", "expected", "words"),
    [
        ("a.parquet", pa.table({"content": ["x"], "id": [1]}), "text_field_missing", "columns are: content, id"),
        ("a.parquet", pa.table({"text": [1]}), "text_field_type", "Row 1 holds int"),
        ("a.parquet", pa.table({"text": [[1, 2]]}), "messages_invalid", "Row 1"),
        ("a.parquet", pa.table([["x"], ["y"]], names=["text", "text"]), "duplicate_column", "more than once"),
        ("a.parquet", pa.table({"text": ["", " \n", None]}), "dataset_empty", "no text"),
        ("a.parquet", pa.table({"text": ["fine", "a\0b"]}), "text_nul", "Row 2"),
        ("a.parquet", b"", "parquet_invalid", "not a valid Parquet file"),
        ("a.parquet", b"PAR1" + bytes(99) + b"PAR1", "parquet_invalid", "not a valid Parquet file"),
        ("a.parquet", b"x" * 500, "parquet_invalid", "not a valid Parquet file"),
        ("a.csv", b"one\ntwo\n", "text_field_missing", "columns are: one"),
        ("a.csv", b"text;n\nx;1\n", "text_field_missing", "columns are: text;n"),
        ("a.csv", b"text,n,text\nx,1,y\n", "duplicate_column", "more than once"),
        ("a.csv", b"text,n\nx,1\ny,2,3\n", "csv_invalid", "line 3"),
        ("a.csv", b"text,n\nx,1,5\n", "csv_invalid", "columns"),
        ("a.csv", b'text,n\n"x,1\n', "csv_invalid", "quote"),
        ("a.csv", b"", "csv_invalid", "first line"),
        ("a.csv", b"text\n", "dataset_empty", "no text"),
        ("a.csv", b"text\nx\n\xff\n", "invalid_unicode", "line 3"),
        ("a.csv", "text\nx\n".encode("utf-16"), "invalid_unicode", "line 1"),
        ("a.csv", b"text\nx\0\n", "text_nul", "line 2"),
        ("a.csv", b"text\n" + b"x" * (MAX_LINE_BYTES + 1), "line_too_long", "line 2"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "one"', "json_invalid", "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "one"}\n[1]', "json_invalid", "line 2 is not a JSON object"),
        ("a.jsonl", b'{"text": "\xff"}', "invalid_unicode", "line 1"),
        ("a.jsonl", b"[" * 100_000, "json_invalid", "line 1"),
        ("a.jsonl", b'{"body": "one"}', "text_field_missing", "columns are: body"),
        ("a.jsonl", b'{"text": 3}', "text_field_type", "holds int64"),
        ("a.jsonl", lines({"text": "a"}, {"text": CHAT}), "text_field_type", "several kinds"),
        ("a.jsonl", lines({"text": "a"}, {"text": 3}), "text_field_type", "several kinds"),
        ("a.jsonl", lines({"text": "a"}, {"text": {"b": 1}}), "text_field_type", "several kinds"),
        ("a.jsonl", lines({"messages": CHAT}, {"messages": "[1]"}), "messages_invalid", "Row 2"),
        ("a.jsonl", lines({"messages": CHAT}, {"messages": 3}), "text_field_type", "Row 2 holds int"),
        ("a.jsonl", lines({"messages": [{"role": "user", "content": ["x"]}]}), "messages_invalid", "only text"),
        ("a.jsonl", lines({"messages": [{"role": "user"}]}), "messages_invalid", "content is not a string"),
        ("a.jsonl", lines({"messages": [{"from": "alien", "value": "x"}]}), "messages_invalid", "human, user"),
        ("a.jsonl", lines({"messages": []}), "messages_invalid", "no list of messages"),
        ("a.jsonl", b'{"text": "' + b"x" * MAX_LINE_BYTES + b'"}', "line_too_long", "line 1"),
    ],
)
def test_a_refusal_names_the_place_and_what_is_wrong(
    name: str, data: bytes | pa.Table, expected: str, words: str, tmp_path: Path
) -> None:
    error = refusal(tmp_path, name, data, limit=10**9)
    assert error.code == expected
    assert words in error.message, error.message
    assert len(error.message) < 500


def test_a_parquet_file_broken_in_the_middle_is_refused(tmp_path: Path) -> None:
    data = bytearray(table_bytes(pa.table({"text": [str(i) * 50 for i in range(5000)]})))
    data[200:2000] = b"\xff" * 1800
    assert refusal(tmp_path, "a.parquet", bytes(data)).code == "parquet_invalid"


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    raw = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"], pa.binary()).buffers())
    assert refusal(tmp_path, "a.parquet", pa.table({"text": raw})).code in ("parquet_invalid", "invalid_unicode")


def test_a_schemas_notes_about_features_are_not_believed(tmp_path: Path) -> None:
    notes = {
        "info": {
            "features": {"text": {"_type": "Image"}, "evil": {"_type": "ClassLabel", "names_file": "/etc/passwd"}}
        }
    }
    schema = pa.schema([("text", pa.string())], metadata={"huggingface": json.dumps(notes)})
    assert read(tmp_path, "a.parquet", pa.table({"text": ["one"]}, schema=schema))[0] == ["one"]


def bomb(kind: str) -> tuple[str, bytes, str]:
    zeros = b"0" * 20_000_000
    rows = b"text\n" + b"0" * 1000 + b"\n"
    if kind == "parquet":
        return "a.parquet", table_bytes(pa.table({"text": [zeros.decode()]}), compression="zstd"), "none"
    if kind == "gzip":
        return "a.csv", gzip.compress(rows * 40_000), "gzip"
    if kind == "gzip members":
        return "a.csv", gzip.compress(rows * 10_000) * 10, "gzip"
    return "a.csv", zstandard.ZstdCompressor(level=19).compress(rows * 40_000), "zstd"


@pytest.mark.parametrize("kind", ["parquet", "gzip", "gzip members", "zstd"])
def test_bombs_are_refused_by_their_ratio(kind: str, tmp_path: Path) -> None:
    name, data, compression = bomb(kind)
    error = refusal(tmp_path, name, data, limit=10**9, compression=compression)
    assert error.code == "compression_ratio"


def test_a_window_that_takes_a_gigabyte_is_refused(tmp_path: Path) -> None:
    options = zstandard.ZstdCompressionParameters(window_log=30, compression_level=1)
    packer = zstandard.ZstdCompressor(compression_params=options).compressobj()
    data = packer.compress(b"text\none\n") + packer.flush()
    error = refusal(tmp_path, "a.csv", data, compression="zstd")
    assert (error.code, "window" in error.message) == ("compression_invalid", True)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("cut", ["cut", "garbage", "other"])
def test_broken_packing_is_refused(compression: str, cut: str, tmp_path: Path) -> None:
    data = PACK[compression](b"text\n" + b"".join(b"%d\n" % n for n in range(9000)))
    data = {"cut": data[:-4], "garbage": data + b"garbage", "other": b"text\none\n"}[cut]
    error = refusal(tmp_path, "a.csv", data, compression=compression)
    assert error.code == "compression_invalid"
    if cut == "cut":
        assert "is cut off" in error.message


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl"])
def test_more_text_than_the_limit_is_refused(name: str, tmp_path: Path) -> None:
    rows = [str(i) * 20 for i in range(1000)]
    data = {
        "a.parquet": table_bytes(pa.table({"text": rows})),
        "a.csv": ("text\n" + "\n".join(rows)).encode(),
        "a.jsonl": lines(*({"text": row} for row in rows)),
    }[name]
    assert refusal(tmp_path, name, data, limit=1000).code == "dataset_too_large"


def test_rows_without_a_text_are_bounded_too(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array([None] * 100_000 + ["one"], pa.string())})
    assert refusal(tmp_path, "a.parquet", table, limit=1_000_000).code == "dataset_too_large"


def test_plain_text_of_a_hub_is_a_document_a_line(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "one\r\n\nzwölf".encode())[0] == ["one", "", "zwölf"]
    assert refusal(tmp_path, "a.txt", b"one", "body").code == "text_field_missing"


def test_names_do_not_unpack_nor_lead_anywhere(tmp_path: Path) -> None:
    """What is not said to be packed is not, whatever it begins with or is called."""
    packed = gzip.compress(b"text\none\n")
    assert refusal(tmp_path, "a.csv", packed).code in ("invalid_unicode", "text_nul")
    name = "zip://x::http://169.254.169.254/*.csv"
    assert read(tmp_path, name, b"text\none\n", module="csv")[0] == ["one"]
