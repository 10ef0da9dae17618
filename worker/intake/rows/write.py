"""From files to the text that jobs read: plain text as it is, rows as canonical JSON lines."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa

from app.datasets.text import MAX_LINE_BYTES, TextRefused, TextScanner
from secateur.documents import as_messages, spoken
from worker.intake.rows.unpack import PIECE, too_large, unpack
from worker.model_files.errors import IntakeError

NULL_BYTES: Final = len(b'{"text": ""}\n')
"""What a row without a text counts for, so that there is a bound on how many are read."""
TOLD_ROWS: Final = 10_000


@dataclass(frozen=True)
class SourceFile:
    """A file on this machine's disk; `name` is what its owner calls it, `module` how its rows are read."""

    path: Path
    name: str
    module: str
    compression: str


@dataclass(frozen=True)
class Reading:
    """What is read: files of one kind, in order. pointer: place of the request in its document, "" or "/hub"."""

    files: tuple[SourceFile, ...]
    field: str | None
    limit: int
    scratch: Path
    pointer: str

    @classmethod
    def of(cls, request: dict[str, Any]) -> "Reading":
        files = tuple(SourceFile(**{**each, "path": Path(each["path"])}) for each in request["files"])
        return cls(files, request["field"], request["limit"], Path(request["scratch"]), request["pointer"])


def write(reading: Reading, target: Path, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the dataset's text and say what it is, as its row has it.

    tell: gets the rows so far, as a sign of life. Raises IntakeError.
    """
    if reading.files[0].module == "scan":
        return _scan(reading, target)
    lines, told = _Lines(reading), 0
    with target.open("wb") as out:
        for name, values in _columns(reading):
            for value in values:
                lines.take(value, name, out)
            if lines.rows >= told + TOLD_ROWS:
                told = lines.rows
                tell({"rows": told})
    return lines.facts()


def _scan(reading: Reading, target: Path) -> dict[str, Any]:
    """A packed txt or jsonl: the same text as if it had been sent as it is, judged by the same rule."""
    (file,) = reading.files
    plain = unpack(file.path, file.name, file.compression, reading.limit, target)
    scan = TextScanner(Path(file.name).suffix.removeprefix("."), reading.field)
    try:
        with plain.open("rb") as text:
            while piece := text.read(PIECE):
                scan.feed(piece)
        scan.finish()
    except TextRefused as error:
        raise IntakeError("dataset_refused", f"{error}.") from None
    return {
        "format": scan.format,
        "text_field": scan.text_field,
        "bytes": scan.bytes,
        "documents": scan.documents,
        "characters": scan.characters,
        "sha256": scan.sha256,
        "null_rows": 0,
    }


def _columns(reading: Reading) -> Iterator[tuple[str, pa.Array]]:
    """The wanted column's name and values, in batches; the first file decides which column."""
    from worker.intake.rows.tables import Table  # `datasets` is heavy, and a packed text does without

    wanted = reading.field
    for number, file in enumerate(reading.files):
        unpacked, local = reading.scratch / f"plain-{number}", reading.scratch / f"rows-{number}"
        # A name of ours: by theirs `datasets` would unpack it, or look for more files.
        local.symlink_to(unpack(file.path, file.name, file.compression, reading.limit, unpacked))
        pointer = f"{reading.pointer}/text_field"
        table = Table(local, file.name, file.module, wanted, reading.limit, pointer)
        for name, values in table.columns(reading.scratch / "cache"):
            wanted = name
            yield name, values
        local.unlink()
        unpacked.unlink(missing_ok=True)


@dataclass
class _Lines:
    """Canonical lines `{"text": …}` or `{"messages": […]}`, counted, hashed and bounded."""

    reading: Reading
    format: str | None = None
    rows: int = 0
    nulls: int = 0
    size: int = 0
    documents: int = 0
    characters: int = 0
    blank: bool = True
    hash: Any = field(default_factory=hashlib.sha256)

    def take(self, scalar: Any, name: str, out: IO[bytes]) -> None:
        """One row. Raises IntakeError for what could not be stored or read back as it is."""
        self.rows += 1
        value = self._value(scalar, name)
        if value is None:
            self.nulls += 1
        else:
            text, line = self._line(value, name)
            out.write(line)
            self.hash.update(line)
            self.size += len(line)
            self.documents += 1
            self.characters += len(text)
            self.blank = self.blank and not text.strip()
        if self.size + NULL_BYTES * self.nulls > self.reading.limit:
            raise too_large(self.reading.limit, None)

    def facts(self) -> dict[str, Any]:
        if self.blank:
            raise IntakeError("dataset_empty", "There is no text in it.", self._pointer)
        return {
            "format": self.format,
            "text_field": "messages" if self.format == "chat" else "text",
            "bytes": self.size,
            "documents": self.documents,
            "characters": self.characters,
            "sha256": self.hash.hexdigest(),
            "null_rows": self.nulls,
        }

    @property
    def _pointer(self) -> str:
        return f"{self.reading.pointer}/text_field"

    def _value(self, scalar: Any, name: str) -> Any:
        try:
            value = scalar.as_py() if isinstance(scalar, pa.Scalar) else scalar
        except UnicodeDecodeError:
            raise self._bad("invalid_unicode", f"is not UTF-8 in `{name}`; convert the file") from None
        format = None if value is None else "chat" if isinstance(value, list) else "jsonl"
        if value is not None and not isinstance(value, str | list):
            raise self._bad(
                "text_field_type", f"holds {type(value).__name__} in `{name}`, not text; write it as text"
            )
        self.format = self.format or format
        if format not in (None, self.format):
            raise self._bad(
                "text_field_type", f"holds another kind of document in `{name}` than the rows before it"
            )
        return value

    def _line(self, value: Any, name: str) -> tuple[str, bytes]:
        """What counts of a document, and its line."""
        try:
            if isinstance(value, list):
                value = as_messages(value, name)
            text = spoken(value) if isinstance(value, list) else value
            key = "messages" if isinstance(value, list) else "text"
            line = json.dumps({key: value}, ensure_ascii=False).encode() + b"\n"
        except UnicodeEncodeError:
            raise self._bad("invalid_unicode", f"has half of a surrogate pair in `{name}`; remove it") from None
        except ValueError as error:
            raise self._bad("messages_invalid", str(error)) from None
        if "\0" in text:
            raise self._bad("text_nul", f"has a NUL character in `{name}`; remove it")
        if len(line) > MAX_LINE_BYTES:
            raise self._bad("line_too_long", f"is longer than {MAX_LINE_BYTES} bytes; split the document")
        return text, line

    def _bad(self, code: str, what: str) -> IntakeError:
        return IntakeError(code, f"Row {self.rows} {what}.", self._pointer)
