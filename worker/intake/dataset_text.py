"""Texts out of a dataset's files, one at a time, whatever the files claim about themselves."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from app.datasets.text import MAX_LINE_BYTES
from worker.intake.dataset_files import PARQUET, TEXT
from worker.model_files.errors import IntakeError

BATCH_ROWS: Final = 1024
CHECK_EVERY: Final = 1000
"""Rows or lines between two looks whether to stop."""
RATIO: Final = 200
"""Text does not shrink to less than a two-hundredth, unless somebody made it for that."""
SLACK: Final = 2**20

_FIELD: Final = "/hub/text_field"


@dataclass(frozen=True)
class TextFile:
    """One downloaded data file; `name` is its path in the repository, `limit` bounds the bytes unpacked.

    check: called often; raises when the work must stop.
    """

    path: Path
    name: str
    field: str
    limit: int
    check: Callable[[], None]

    def texts(self) -> Iterator[str | None]:
        """Every row's text in order, None for a null. Raises IntakeError for what is no text or out of bounds."""
        if self.name.endswith(PARQUET):
            return self._parquet()
        if self.name.endswith(TEXT):
            return self._plain()
        return self._json_lines()

    def _parquet(self) -> Iterator[str | None]:
        try:
            metadata = pq.read_metadata(self.path)
            self._check_schema(metadata.schema.to_arrow_schema())
            self._check_sizes(metadata)
            # As a dictionary, a text that is repeated a million times takes its memory once.
            file = pq.ParquetFile(self.path, read_dictionary=[self.field])
            for batch in file.iter_batches(BATCH_ROWS, columns=[self.field]):
                yield from _strings(batch.column(0))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise IntakeError("parquet_invalid", f"{self.name} is not a valid Parquet file.") from error

    def _check_schema(self, schema: Any) -> None:
        if schema.names.count(self.field) != 1:
            raise self._no_field(schema.names)
        kind = schema.field(self.field).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise self._not_text(str(kind)[:60])

    def _check_sizes(self, metadata: Any) -> None:
        """Refuse by the declared sizes; what a file hides from them meets the bound on the text written."""
        packed = unpacked = 0
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(column)
                if chunk.path_in_schema == self.field:
                    packed += chunk.total_compressed_size
                    unpacked += chunk.total_uncompressed_size
        self._bound(unpacked, packed)

    def _json_lines(self) -> Iterator[str | None]:
        for number, line in self._lines():
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise IntakeError("invalid_json", f"Line {number} of {self.name} is not JSON.") from error
            if not isinstance(row, dict):
                raise IntakeError("invalid_json", f"Line {number} of {self.name} is not a JSON object.")
            if self.field not in row:
                raise self._no_field(list(row))
            text = row[self.field]
            if text is not None and not isinstance(text, str):
                raise self._not_text(type(text).__name__)
            yield text

    def _plain(self) -> Iterator[str | None]:
        """Each line is a document, in a column called `text`."""
        if self.field != "text":
            raise self._no_field(["text"])
        for number, line in self._lines():
            try:
                yield line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise IntakeError("invalid_unicode", f"Line {number} of {self.name} is not UTF-8.") from error

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        packed, total, number = self.path.stat().st_size, 0, 0
        try:
            with self._open() as file:
                while line := file.readline(MAX_LINE_BYTES + 1):
                    number, total = number + 1, total + len(line)
                    if number % CHECK_EVERY == 0:  # also where no line is a row
                        self.check()
                    if len(line) > MAX_LINE_BYTES:
                        message = f"Line {number} of {self.name} is longer than {MAX_LINE_BYTES} bytes."
                        raise IntakeError("line_too_long", message)
                    self._bound(total, packed)
                    yield number, line
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise IntakeError("gzip_invalid", f"{self.name} is not a valid gzip file.") from error

    def _open(self) -> BinaryIO:
        opened = gzip.open if self.name.endswith(".gz") else open
        return cast(BinaryIO, opened(self.path, "rb"))

    def _bound(self, unpacked: int, packed: int) -> None:
        if unpacked > RATIO * packed + SLACK:
            raise IntakeError("compression_ratio", f"{self.name} unpacks to more than {RATIO} times its size.")
        if unpacked > self.limit:
            raise too_large(self.limit)

    def _no_field(self, columns: list[str]) -> IntakeError:
        shown = ", ".join(sorted(column[:60] for column in columns)[:40]) or "none"
        message = f"{self.name} has no column `{self.field}`; its columns are: {shown}."
        return IntakeError("text_field_missing", message, _FIELD)

    def _not_text(self, kind: str) -> IntakeError:
        message = f"The column `{self.field}` of {self.name} holds {kind}, not text."
        return IntakeError("text_field_type", message, _FIELD)


def too_large(limit: int) -> IntakeError:
    """The error of a split above the service's limit."""
    return IntakeError(
        "dataset_too_large",
        f"The split is larger than the {limit} bytes that this service takes; choose a smaller configuration or "
        "split, or upload an extract.",
        "/hub/split",
    )


def _strings(column: Any) -> Iterator[str | None]:
    if isinstance(column, pa.DictionaryArray):
        values = column.dictionary
        for index in column.indices:
            yield values[index.as_py()].as_py() if index.is_valid else None
    else:
        for value in column:
            yield value.as_py()
