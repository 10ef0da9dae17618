"""A model's own tokenizer: what it makes of a text, piece by piece, and what it puts before every text."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy
from numpy.typing import NDArray
from transformers import AutoTokenizer

from secateur.documents import Message
from secateur.spec.request import Text
from worker.model_files.choose import SMALL_FILE_BYTES
from worker.model_files.strict_json import read_object
from worker.model_files.tokenizer import check_growth
from worker.pruning.calibration.texts import documents, joined
from worker.pruning.errors import SpecError, UserError, blaming

PIECE: Final = 1 << 18
"""Characters tokenised at once, to bound memory."""
OVERLAP: Final = 1 << 11
"""Characters that a piece shares with the one before. Inside them is the place where the two are joined."""
AGREED: Final = 4
"""Tokens on each side of that place which both pieces must have."""
CHARACTERS: Final = 6
"""Of most texts a token has fewer, so that one piece is enough where only some tokens are wanted."""
SAMPLE: Final = "The cat, 1 dog."
"""Shows what a tokenizer puts around a text."""
RULES: Final = "tokenizer.json"
TEMPLATE_WORDS: Final = 200
"""Characters shown of what a chat template says when it refuses a conversation."""
TEMPLATE_CHARACTERS: Final = 1 << 20
TEMPLATE_FACTOR: Final = 4
"""Longest that a conversation may become: so many characters, and so many for each of its own."""
TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)

Ids = NDArray[numpy.int32]


class Tokenizer:
    """The model folder's own tokenizer.

    digest: sha256 over its files. prefix: ids of what it puts before every text, whether it is told to by a
    template, a post-processor or its configuration; what it puts behind a text is not used here. highest: of its
    tokens' ids.
    """

    def __init__(self, folder: Path) -> None:
        with blaming("unsupported_model", "the tokenizer cannot be read", "/model"):
            if (folder / RULES).is_file():
                check_growth(read_object(folder / RULES, RULES, SMALL_FILE_BYTES))
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            self.highest: int = max(self._tokenizer.get_vocab().values(), default=-1)
        digest = hashlib.sha256()
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                digest.update(name.encode() + b"\0" + hashlib.sha256((folder / name).read_bytes()).digest())
        self.digest = digest.hexdigest()
        self.prefix = self._find_prefix()

    def token(self, id: int) -> str:
        """A token as its vocabulary writes it."""
        return str(self._tokenizer.convert_ids_to_tokens(id))

    @property
    def context(self) -> int:
        """Tokens of a window that are never predicted: the prefix, or the first one of the text without any."""
        return max(len(self.prefix), 1)

    def room(self, length: int, field: str) -> int:
        """Tokens of the text in a window of `length`. Raises SpecError where the prefix leaves it none.

        field: JSON pointer of the length.
        """
        if length <= len(self.prefix):
            message = f"must be more than {len(self.prefix)}, the tokens that the tokenizer puts before every text"
            raise SpecError(field, message)
        return length - len(self.prefix)

    def count(self, piece: str) -> int:
        """Tokens of a short text, without prefix."""
        return len(self._encode(piece)["input_ids"])

    def tokens(self, text: Text, field: str, limit: int | None = None) -> Ids:
        """Token ids of a whole text, documents joined by one blank, without prefix. limit: at the most so many."""
        return self._ids(joined(text, field, partial(self._render, field)), limit)

    def documents(self, text: Text, field: str, limit: int | None = None) -> Iterator[Ids]:
        """Token ids of each document by itself, without prefix. limit: of each at the most so many."""
        for document in documents(text, field, partial(self._render, field)):
            yield self._ids(document, limit)

    def _render(self, field: str, messages: list[Message], place: str) -> str:
        """A conversation by the model's own chat template, which transformers runs in a sandbox."""
        if not getattr(self._tokenizer, "chat_template", None):
            message = (
                "this is a dataset of conversations, and the model's tokenizer has no chat template: take a model "
                "with one (tokenizer_config.json or chat_template.jinja), or a dataset of texts"
            )
            raise UserError("no_chat_template", message, field)
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # a template may say anything, and fail in any way
            reason = str(error)[:TEMPLATE_WORDS] or type(error).__name__
            message = f"{place} cannot be rendered by the model's chat template: {reason}"
            raise UserError("invalid_text", message, field) from error
        most = TEMPLATE_CHARACTERS + TEMPLATE_FACTOR * sum(len(each["content"]) for each in messages)
        if not isinstance(text, str) or len(text) > most:
            message = f"{place} becomes more than {most} characters by the model's chat template"
            raise UserError("invalid_text", message, field)
        return text

    def _find_prefix(self) -> tuple[int, ...]:
        """Compared are the ids of a text with and without what the tokenizer puts around it."""
        if not self._tokenizer.num_special_tokens_to_add():
            return ()
        plain, whole = (self._encode(SAMPLE, around=around)["input_ids"] for around in (False, True))
        for start in range(len(whole) - len(plain) + 1):
            if plain and whole[start : start + len(plain)] == plain:
                return tuple(whole[:start])
        message = "it cannot be told what the tokenizer puts before a text, because it changes the text as well"
        raise UserError("unsupported_model", message, "/model")

    def _encode(self, piece: str, *, around: bool = False) -> Any:
        with blaming("unsupported_model", "the model's tokenizer cannot read a text", "/model"):
            return self._tokenizer(
                piece,
                add_special_tokens=around,
                verbose=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )

    def _ids(self, parts: Iterable[str], limit: int | None) -> Ids:
        size = PIECE if limit is None else min(PIECE, CHARACTERS * limit + 2 * OVERLAP)
        found: list[Ids] = []
        count = 0
        for ids in self._runs(_pieces(parts, size)):
            found.append(ids)
            count += len(ids)
            if limit is not None and count >= limit:
                break
        return numpy.concatenate(found)[:limit] if found else numpy.zeros(0, dtype=numpy.int32)

    def _runs(self, pieces: Iterable[str]) -> Iterator[Ids]:
        """The ids of overlapping pieces, such as the whole text at once would give."""
        before: Any = None
        begin = length = 0
        for piece in pieces:
            after = self._encode(piece)
            end, start = len(before["input_ids"]) if before is not None else 0, 0
            if before is not None:
                place = _joint(before, after, length - OVERLAP)
                if place is None:  # nothing agrees, or the tokenizer does not say where its tokens lie
                    after = self._encode(piece[OVERLAP:])
                else:
                    end, start = place
                yield numpy.asarray(before["input_ids"][begin:end], dtype=numpy.int32)
            before, begin, length = after, start, len(piece)
        if before is not None:
            yield numpy.asarray(before["input_ids"][begin:], dtype=numpy.int32)


def _pieces(parts: Iterable[str], size: int) -> Iterator[str]:
    """Pieces of `size` characters, the last one of more than OVERLAP; each begins with the last OVERLAP of the one
    before."""
    gathered: list[str] = []
    held = 0
    step = size - OVERLAP
    for part in parts:
        gathered.append(part)
        held += len(part)
        if held > size:
            whole = "".join(gathered)
            starts = range(0, held - size, step)
            yield from (whole[start : start + size] for start in starts)
            gathered = [whole[starts[-1] + step :]]
            held = len(gathered[0])
    if held:
        yield "".join(gathered)


def _joint(before: Any, after: Any, offset: int) -> tuple[int, int] | None:
    """Where one piece can be left for the next: so many tokens of the one, and the first token of the other.

    There a token begins in both, and AGREED tokens on either side are the same. offset: of the second piece in the
    first, in characters. None where there is no such place.
    """
    if not before.is_fast:
        return None
    one, two = before["input_ids"], after["input_ids"]
    for character in range(OVERLAP // 4, OVERLAP):
        end, start = before.char_to_token(offset + character), after.char_to_token(character)
        if end is None or start is None or min(end, start) < AGREED:
            continue
        same = before.token_to_chars(end).start - offset == after.token_to_chars(start).start
        if same and one[end - AGREED : end + AGREED] == two[start - AGREED : start + AGREED]:
            return end, start
    return None
