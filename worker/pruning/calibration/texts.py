"""The characters of a text file: a txt is one document, each line of a jsonl one."""

from collections.abc import Iterator

from secateur.documents import read_document
from secateur.spec.request import Format, Text
from worker.pruning.errors import UserError

CHUNK = 1 << 18
"""Characters of a txt read at once, wherever its lines end."""


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


def _chunks(text: Text, field: str) -> Iterator[str]:
    # newline="": what the file says is what the model reads.
    with text.path.open(encoding="utf-8", newline="") as handle:
        try:
            while chunk := handle.read(CHUNK):
                yield chunk
        except UnicodeDecodeError:
            raise UserError("invalid_text", "the text is not UTF-8", field) from None


def _lines(text: Text, field: str) -> Iterator[str]:
    with text.path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                document = read_document(line, text.text_field)
            except ValueError as error:
                raise UserError("invalid_text", f"line {number} {error}", field) from None
            yield document
