"""One column of a plain local file, as Arrow arrays, read by the packaged builders of `datasets`."""

import csv
import json
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value
from datasets import Json as Encoded
from datasets.builder import ArrowBasedBuilder
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.json.json import Json
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.packaged_modules.text.text import Text

from app.datasets.text import MAX_LINE_BYTES
from secateur.documents import DEFAULT_FIELDS, read_row
from worker.intake.rows.unpack import KINDS, check_ratio, check_text, too_large
from worker.machine_errors import is_out_of_memory
from worker.model_files.errors import IntakeError

MODULES: Final = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
}
"""Endings of plain files, and the builder that reads them."""
BATCH_ROWS: Final = 64
"""Rows in memory at once; each may be as long as the longest document."""
_SHOWN: Final = 40
_LINE: Final = re.compile(r"(?:line|row) (\d+)")


def module_of(name: str) -> str | None:
    """The builder for a file of that name, packed or not."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in KINDS and suffixes[-2:-1] != [".parquet"]:
        suffixes.pop()
    if Path(name).name in ("dataset_infos.json", "dataset_info.json", "config.json", "dataset_dict.json"):
        return None
    return MODULES.get(suffixes[-1]) if suffixes else None


@dataclass(frozen=True)
class Table:
    """A plain file whose rows are wanted; `name` is what its owner calls it.

    field: the column, or None for the first of `DEFAULT_FIELDS` that is there. limit: bound on the bytes unpacked.
    pointer: of the column's name in the owner's request.
    """

    path: Path
    name: str
    module: str
    field: str | None
    limit: int
    pointer: str

    def columns(self, cache: Path) -> "Iterator[tuple[str, pa.Array]]":
        """The column's name and its values, batch after batch. Raises IntakeError for what cannot be read."""
        if self.module != "parquet":
            check_text(self.path, self.name)
        read = {"parquet": self._parquet, "csv": self._csv, "json": self._json, "text": self._text}[self.module]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pandas.errors.ParserWarning)
                yield from read(cache)
        except pandas.errors.ParserWarning as error:
            raise self._ragged(None) from error
        except pandas.errors.ParserError as error:
            raise self._ragged(_number(error)) from error
        except (IntakeError, MemoryError):
            raise
        except Exception as error:  # the libraries raise whatever comes when they do not know a file
            if is_out_of_memory(error):
                raise
            traceback.print_exc()
            raise self._unreadable(error) from error

    def _parquet(self, cache: Path) -> "Iterator[tuple[str, pa.Array]]":
        metadata = pq.read_metadata(self.path)
        schema = metadata.schema.to_arrow_schema()
        field = self._choose(schema.names)
        self._check_sizes(metadata, field)
        # The schema's own notes about features are not believed.
        features = Features.from_arrow_schema(pa.schema([pa.field(field, schema.field(field).type)]))
        builder = Parquet(**self._local(cache), columns=[field], features=features, batch_size=BATCH_ROWS)
        yield from _stream(builder, field)

    def _csv(self, cache: Path) -> "Iterator[tuple[str, pa.Array]]":
        separator = "\t" if ".tsv" in Path(self.name.lower()).suffixes else ","
        header = self._header(separator)
        field = self._choose(header)
        header = _distinct(header)
        features = Features({name: Value("string") for name in header})
        builder = Csv(
            **self._local(cache),
            sep=separator,
            features=features,
            names=header,
            header=0,
            index_col=False,
            keep_default_na=False,
            na_values=[""],
            chunksize=BATCH_ROWS,
            encoding="utf-8-sig",
            on_bad_lines="error",
        )
        yield from _stream(builder, field)

    def _header(self, separator: str) -> list[str]:
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            csv.field_size_limit(MAX_LINE_BYTES)
            try:
                header = next(csv.reader(file, delimiter=separator, strict=True), [])
            except csv.Error as error:
                raise self._ragged(1) from error
        if not any(header):
            raise IntakeError("csv_invalid", f"{self.name}: the first line must name the columns.")
        return header

    def _json(self, cache: Path) -> "Iterator[tuple[str, pa.Array]]":
        row = _first_object(self.path)
        field = self._choose(list(row))
        # Written as JSON each, because messages may differ in their fields; a text is only ever a string.
        encoded = isinstance(row[field], list)
        features = Features({field: Encoded() if encoded else Value("string")})
        builder = _OneColumn(**self._local(cache), parse_agent_traces=False, features=features)
        builder.field, builder.refuse = field, self._not_text
        for name, values in _stream(builder, field):
            yield (
                name,
                [json.loads(each.as_py()) if each.is_valid else None for each in values] if encoded else values,
            )

    def _not_text(self, kind: str) -> IntakeError:
        message = f"The column `{self.field or DEFAULT_FIELDS[0]}` of {self.name} holds {kind}, not text alone."
        return IntakeError("text_field_type", message, self.pointer)

    def _text(self, cache: Path) -> "Iterator[tuple[str, pa.Array]]":
        self._choose(["text"])
        yield from _stream(Text(**self._local(cache)), "text")

    def _local(self, cache: Path) -> dict[str, Any]:
        return {"cache_dir": str(cache), "data_files": {"train": [str(self.path)]}}

    def _choose(self, names: Sequence[str]) -> str:
        """The wanted column. Raises IntakeError, naming those that there are."""
        field = self.field or next((each for each in DEFAULT_FIELDS if each in names), None)
        shown = ", ".join(name[:60] for name in list(names)[:_SHOWN]) or "none"
        if field is None or field not in names:
            message = f"{self.name} has no column `{field or DEFAULT_FIELDS[0]}`; its columns are: {shown}."
            raise IntakeError("text_field_missing", message, self.pointer)
        if list(names).count(field) > 1:
            message = f"{self.name} has the column `{field}` more than once: {shown}."
            raise IntakeError("duplicate_column", message, self.pointer)
        return field

    def _check_sizes(self, metadata: Any, field: str) -> None:
        """Refuse by the declared sizes; what a file hides from them meets the bounds on memory and on the text."""
        packed = unpacked = 0
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(column)
                if chunk.path_in_schema.split(".")[0] == field:
                    packed += max(chunk.total_compressed_size, 0)
                    unpacked += chunk.total_uncompressed_size
        check_ratio(self.name, unpacked, min(packed, self.path.stat().st_size))
        if unpacked > self.limit:
            raise too_large(self.limit, None)

    def _ragged(self, line: int | None) -> IntakeError:
        where = f"line {line}" if line else "a line"
        message = f"{self.name}: {where} has not the header's columns; quote texts with commas, quotes or breaks."
        return IntakeError("csv_invalid", message)

    def _unreadable(self, error: Exception) -> IntakeError:
        if self.module == "json" and (found := _bad_line(self.path)):
            return IntakeError("json_invalid", f"{self.name}: line {found}.")
        kind = {"parquet": "Parquet file", "csv": "CSV file", "json": "file of JSON objects"}.get(self.module)
        return IntakeError(f"{self.module}_invalid", f"{self.name} is not a valid {kind or 'text'}.")


class _OneColumn(Json):  # type: ignore[misc]
    """Rows of JSON files whose other fields may come and go: one column is kept before they are held against each
    other."""

    field = ""
    refuse: Any = None

    def _cast_table(self, pa_table: pa.Table, json_field_paths: Any = ()) -> pa.Table:
        if self.field not in pa_table.column_names:
            return pa.table({self.field: pa.nulls(len(pa_table), pa.string())})
        kind = pa_table.schema.field(self.field).type
        if self.info.features[self.field] == Value("string") and [self.field] in [p[:1] for p in json_field_paths]:
            raise self.refuse("values of several kinds")
        if not (pa.types.is_string(kind) or pa.types.is_null(kind)):
            raise self.refuse(str(kind)[:60])
        return pa_table.select([self.field]).cast(pa.schema([(self.field, pa.string())]))


def _stream(builder: ArrowBasedBuilder, field: str) -> "Iterator[tuple[str, pa.Array]]":
    for table in builder.as_streaming_dataset(split="train").with_format("arrow").iter(BATCH_ROWS):
        yield field, table.column(field)


def _distinct(header: list[str]) -> list[str]:
    """The same names, with a number where one is there already: that is not the column asked for."""
    return [name if header.index(name) == at else f"{name}\0{at}" for at, name in enumerate(header)]


def _first_object(path: Path) -> dict[str, Any]:
    """The first row of JSON lines, or of a list of objects. Raises ValueError when there is none."""
    with path.open(encoding="utf-8-sig") as file:
        head = file.read(MAX_LINE_BYTES).lstrip()
    if not head:
        raise ValueError("nothing in it")
    row, _ = json.JSONDecoder().raw_decode(head[1:].lstrip() if head[0] == "[" else head)
    if not isinstance(row, dict):
        raise ValueError("no object")
    return row


def _bad_line(path: Path) -> str | None:
    """The first line that is no JSON object, and what is wrong with it; None when that is not the fault."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                if line.strip():
                    json.dumps(read_row(line), ensure_ascii=False).encode()
            except UnicodeEncodeError:
                return f"{number} has half of a pair of surrogates (\\ud800 to \\udfff); remove it"
            except ValueError as error:
                return f"{number} {error}"
    return None


def _number(error: Exception) -> int | None:
    found = _LINE.search(str(error))
    return int(found.group(1)) if found else None
