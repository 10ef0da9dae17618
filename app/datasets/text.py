"""Reading a dataset's text piece by piece: is it usable, how much is it, what is its hash."""

import codecs
import hashlib
from typing import Final

from secateur.documents import default_field, read_document, read_messages, read_row, spoken

MOST_GROWTH: Final = 200
"""Text does not shrink to less than a two-hundredth, unless somebody made it for that."""
GROWTH_SLACK: Final = 2**20
MAX_LINE_BYTES: Final = 16 * 2**20
"""Longest line of a jsonl dataset, that is, the longest document."""
_BOM: Final = b"\xef\xbb\xbf"


class TextRefused(Exception):
    """The text cannot be a dataset; the message names the line and the fix."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(f"line {line}: {message}" if line is not None else message)
        self.line = line


class TextScanner:
    """Takes the bytes of a dataset in order and counts them; memory is bounded by one line.

    `txt` is one document. `jsonl` is one JSON object a line, with a text or a list of messages under `text_field`;
    blank lines do not count. Its first line says which of both, and without `text_field` also where. Afterwards
    `format` (txt, jsonl or, with messages, chat) and `text_field` are what was found.
    """

    def __init__(self, format: str, text_field: str | None = None) -> None:
        self.format = format
        self.text_field = text_field if format == "jsonl" else None
        self._hash = hashlib.sha256()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._head = b""
        self._rest = bytearray()
        self._line = 1
        self._blank = True
        self.bytes = 0
        self.documents = 0
        self.characters = 0

    @property
    def sha256(self) -> str:
        """Hex sha256 of all bytes so far."""
        return self._hash.hexdigest()

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises TextRefused."""
        if len(self._head) < len(_BOM):
            self._head += data[: len(_BOM) - len(self._head)]
            if self._head == _BOM:
                raise TextRefused("starts with a byte order mark; save the text as UTF-8 without one", 1)
        self._hash.update(data)
        self.bytes += len(data)
        if self.format == "txt":
            self._feed_text(data, final=False)
        else:
            self._feed_lines(data)

    def finish(self) -> None:
        """No more bytes. Raises TextRefused when the end is cut off or there was no text at all."""
        if self.format != "txt":
            if self._rest:
                self._take_line(bytes(self._rest))
                self._rest.clear()
        else:
            self._feed_text(b"", final=True)
            self.documents = 1
        if self._blank:
            raise TextRefused("there is no text in it; send at least one character that is not blank")

    def _feed_text(self, data: bytes, final: bool) -> None:
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            line = self._line + error.object[: error.start].count(b"\n")
            raise TextRefused("is not UTF-8; convert the text to UTF-8", line) from None
        if "\0" in text:
            line = self._line + text[: text.index("\0")].count("\n")
            raise TextRefused("contains a NUL character; remove it", line)
        self._line += text.count("\n")
        self._count(text)

    def _feed_lines(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._rest += line
            self._check_length()
            self._take_line(bytes(self._rest))
            self._rest.clear()
            self._line += 1
        self._rest += rest
        self._check_length()

    def _check_length(self) -> None:
        if len(self._rest) > MAX_LINE_BYTES:
            raise TextRefused(f"is longer than {MAX_LINE_BYTES} bytes; split the document", self._line)

    def _take_line(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            if not self.documents:
                self._look_at(line)
            field = self.text_field or ""
            text = spoken(read_messages(line, field)) if self.format == "chat" else read_document(line, field)
        except ValueError as error:
            raise TextRefused(str(error), self._line) from None
        if "\0" in text:
            raise TextRefused(f"`{field}` contains a NUL character; remove it", self._line)
        self.documents += 1
        self._count(text)

    def _look_at(self, first: bytes) -> None:
        """Where the documents are, and whether they are conversations."""
        row = read_row(first)
        self.text_field = self.text_field or default_field(row)
        if isinstance(row.get(self.text_field), list):
            self.format = "chat"

    def _count(self, text: str) -> None:
        self.characters += len(text)
        self._blank = self._blank and not text.strip()
