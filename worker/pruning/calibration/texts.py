"""The characters of a text file: a txt is one document, each line of a jsonl one."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Final

from secateur.spec.request import Format, Text
from worker.pruning.errors import UserError

CHUNK = 1 << 18
"""Characters of a txt read at once, wherever its lines end."""
SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""What JSON may hold and no tokenizer takes."""


def documents(text: Text, field: str) -> Iterator[Iterator[str]]:
    """The documents, each in pieces to be read before the next one. field: the text's place in the request.

    Raises UserError for a text that is not UTF-8, naming the line of a jsonl that is no document.
    """
    if text.format is Format.txt:
        yield _chunks(text, field)
        return
    for content in _lines(text, field):
        yield iter((content,))


def joined(text: Text, field: str) -> Iterator[str]:
    """The whole text in pieces; between two documents is one blank."""
    for number, document in enumerate(documents(text, field)):
        if number:
            yield " "
        yield from document


def text_digest(text: Text) -> str:
    """sha256 of the file's bytes."""
    with text.path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _chunks(text: Text, field: str) -> Iterator[str]:
    # newline="": what the file says is what the model reads.
    with text.path.open(encoding="utf-8", newline="") as handle:
        try:
            while chunk := handle.read(CHUNK):
                yield chunk
        except UnicodeDecodeError:
            raise _not_utf8(field) from None


def _lines(text: Text, field: str) -> Iterator[str]:
    with text.path.open(encoding="utf-8") as handle:
        try:
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    yield _document(line, text.text_field, number, field)
        except UnicodeDecodeError:
            raise _not_utf8(field) from None


def _not_utf8(field: str) -> UserError:
    return UserError("invalid_text", "the text is not UTF-8", field)


def _document(line: str, text_field: str, number: int, field: str) -> str:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError("invalid_text", f"line {number} is not JSON", field) from None
    content = document.get(text_field) if isinstance(document, dict) else None
    if not isinstance(content, str):
        raise UserError("invalid_text", f"line {number} has no text in its field {text_field!r}", field)
    if SURROGATE.search(content):
        message = f"line {number} has half of a pair of surrogates (\\ud800 to \\udfff), which is no character"
        raise UserError("invalid_text", message, field)
    return content
