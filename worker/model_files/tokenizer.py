"""Rules of a tokenizer.json: reading a text with it must not make the text many times longer.

Its rules are run by compiled code, which has no bound of its own: forty rules that double one letter make a
terabyte of it.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any, Final

from worker.model_files.errors import IntakeError

MOST_GROWTH: Final = 16.0
"""Characters for one, by all rules together. GPT-2's take four bytes for one, others replace a space by a sign."""
LONGEST_MAPPED: Final = 32
"""Characters that a table of characters (SentencePiece's) makes of one; Unicode's own longest is 18."""
LONGEST_ADDED: Final = 1_000
"""Characters or tokens put before or after a text."""
MOST_STEPS: Final = 100
BYTES_OF_CHARACTER: Final = 4
TABLE_LENGTH: Final = 4
"""Bytes that say how long a table's first part is."""


def check_growth(tokenizer: Mapping[str, Any]) -> None:
    """tokenizer: the JSON object of a tokenizer.json. Raises IntakeError(tokenizer_grows)."""
    growth, steps = 1.0, 0
    for part in ("normalizer", "pre_tokenizer"):
        for rule in _rules(tokenizer.get(part)):
            growth, steps = growth * _growth(rule), steps + 1
            if steps > MOST_STEPS:
                raise _grows(f"it has more than {MOST_STEPS} rules for a text")
            if growth > MOST_GROWTH:
                raise _grows(f"its rules make more than {MOST_GROWTH:g} characters of one")
    _check_added(tokenizer)


def _rules(part: object) -> Iterator[Mapping[str, Any]]:
    """The rules of a part in their order, those inside sequences among them."""
    pending = [part]
    while pending:
        rule = pending.pop()
        if not isinstance(rule, Mapping):
            continue
        inner = [each for name in ("normalizers", "pretokenizers") for each in _list(rule.get(name))]
        pending.extend(reversed(inner))
        if not inner:
            yield rule


def _growth(rule: Mapping[str, Any]) -> float:
    """Characters that a rule can make of one. Those of Unicode's normal forms are not counted."""
    match rule.get("type"):
        case "Replace":
            content, pattern = str(rule.get("content", "")), rule.get("pattern")
            literal = pattern.get("String") if isinstance(pattern, Mapping) else None
            if isinstance(literal, str) and literal:
                return max(1.0, len(content) / len(literal))
            return 1.0 + len(content)  # what matches nothing is found between any two characters
        case "Prepend":
            _bound(len(str(rule.get("prepend", ""))))
        case "ByteLevel":
            return float(BYTES_OF_CHARACTER)
        case "Metaspace":
            return float(max(1, len(str(rule.get("replacement", "")))))
        case "Precompiled":
            _check_table(rule.get("precompiled_charsmap"))
    return 1.0


def _check_table(text: object) -> None:
    """A table of characters: a length, so much of a trie, then the words that stand for characters, by NUL."""
    if not isinstance(text, str):
        return
    try:
        table = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _grows("its precompiled_charsmap is not base64") from None
    begin = TABLE_LENGTH + int.from_bytes(table[:TABLE_LENGTH], "little")
    if begin > len(table):
        raise _grows("its precompiled_charsmap is cut off")
    words = table[begin:].split(b"\0")
    longest = max((len(word.decode(errors="replace")) for word in words if len(word) > LONGEST_MAPPED), default=0)
    if longest > LONGEST_MAPPED:
        raise _grows(f"its precompiled_charsmap makes {longest} characters of one")


def _check_added(tokenizer: Mapping[str, Any]) -> None:
    """What is put around every text."""
    padding = tokenizer.get("padding")
    if isinstance(padding, Mapping):
        strategy = padding.get("strategy")
        fixed = strategy.get("Fixed", 0) if isinstance(strategy, Mapping) else 0
        for length in (fixed, padding.get("pad_to_multiple_of") or 0):
            if isinstance(length, int) and length > 2**20:
                raise _grows(f"it pads every text to {length} tokens")
    for rule in _processors(tokenizer.get("post_processor")):
        for form in ("single", "pair"):
            _bound(len(_list(rule.get(form))))
        special = rule.get("special_tokens")
        for token in special.values() if isinstance(special, Mapping) else ():
            _bound(len(_list(token.get("ids"))) if isinstance(token, Mapping) else 0)


def _processors(part: object) -> Iterator[Mapping[str, Any]]:
    pending = [part]
    while pending:
        rule = pending.pop()
        if isinstance(rule, Mapping):
            pending.extend(_list(rule.get("processors")))
            yield rule


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _bound(length: int) -> None:
    if length > LONGEST_ADDED:
        raise _grows(f"it puts {length} characters or tokens around every text")


def _grows(why: str) -> IntakeError:
    return IntakeError(
        "tokenizer_grows",
        f"tokenizer.json would make texts far longer than they are: {why}. Save the model's original tokenizer "
        "beside it with save_pretrained.",
    )
