"""The characters of a text file: a txt is one document, each line of a jsonl or of a chat one."""

from collections.abc import Callable, Iterator

from secateur.documents import Message, read_document, read_messages
from secateur.spec.request import Format, Text
from worker.pruning.errors import UserError

CHUNK = 1 << 18
"""Characters of a txt read at once, wherever its lines end."""
Render = Callable[[list[Message], str], str]
"""A conversation as the model reads it. The second argument says where it stands, for errors."""


def documents(text: Text, field: str, render: Render) -> Iterator[Iterator[str]]:
    """The documents, each in pieces to be read before the next one. field: the text's place in the request.

    Raises UserError for a text that is not UTF-8, naming the line of a jsonl or chat that is no document.
    """
    if text.format is Format.txt:
        yield _chunks(text, field)
        return
    for content in _lines(text, field, render):
        yield iter((content,))


def joined(text: Text, field: str, render: Render) -> Iterator[str]:
    """The whole text in pieces; between two documents is one blank."""
    for number, document in enumerate(documents(text, field, render)):
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


def _lines(text: Text, field: str, render: Render) -> Iterator[str]:
    with text.path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                if text.format is Format.jsonl:
                    yield read_document(line, text.text_field)
                    continue
                messages = read_messages(line, text.text_field)
            except ValueError as error:
                raise UserError("invalid_text", f"line {number} {error}", field) from None
            yield render(messages, f"line {number}")
