"""The documents of JSON lines, texts or conversations: one rule for who takes them in and who prunes on them."""

import json
import re
from typing import Any, Final

DEFAULT_FIELDS: Final = ("text", "messages", "conversations")
"""Where a document is looked for when nobody said where; the first one that is there counts."""
SHOWN: Final = 5
"""Names of other fields that an error has at most."""
_NAME: Final = re.compile(r"\w[\w.-]{0,39}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""What JSON may hold and no tokenizer takes."""
_ROLES: Final = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}
"""What `from` says in conversations of {from, value}, and the role that it means."""

Message = dict[str, Any]
"""`role`, `content`, and whatever else a chat template may ask for."""


def read_row(line: bytes) -> dict[str, Any]:
    """The object of one line. Raises ValueError; its words follow "line 7": the fault and the fix."""
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8; convert the text to UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON; write one JSON object a line") from None
    if not isinstance(row, dict):
        raise ValueError('is not a JSON object; write {"text": "…"}')
    return row


def read_document(line: bytes, field: str) -> str:
    """The text of one line, under `field`. Raises ValueError as `read_row`."""
    row = read_row(line)
    text = row.get(field)
    if not isinstance(text, str):
        others = [f"`{name}`" for name, value in row.items() if isinstance(value, str) and _NAME.fullmatch(name)]
        there = f", but under {', '.join(others[:SHOWN])}" if others else ""
        raise ValueError(f"has no string under `{field}`{there}; name the field as text_field")
    if _SURROGATE.search(text):
        raise ValueError(f"has half of a pair of surrogates (\\ud800 to \\udfff) in `{field}`; remove it")
    return text


def read_messages(line: bytes, field: str) -> list[Message]:
    """The conversation of one line, under `field`. Raises ValueError as `read_row`."""
    return as_messages(read_row(line).get(field), field)


def default_field(row: dict[str, Any]) -> str:
    """Where a row's document is when nobody said where."""
    return next((field for field in DEFAULT_FIELDS if field in row), DEFAULT_FIELDS[0])


def as_messages(value: Any, field: str) -> list[Message]:
    """A conversation in one form: a list of {role, content}, also from a list of {from, value}.

    Fields beside these two are kept unless they are null. Raises ValueError as `read_row`.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f'has no list of messages under `{field}`; write [{{"role": "user", "content": "…"}}]')
    messages = [_message(each, field) for each in value]
    try:
        written = json.dumps(messages, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError, TypeError):
        raise ValueError(f"has something in `{field}` that is no JSON; send role and content alone") from None
    if _SURROGATE.search(written):
        raise ValueError(f"has half of a pair of surrogates (\\ud800 to \\udfff) in `{field}`; remove it")
    return messages


def spoken(messages: list[Message]) -> str:
    """What all messages say, one after another."""
    return "".join(message["content"] for message in messages)


def _message(value: Any, field: str) -> Message:
    if not isinstance(value, dict):
        raise ValueError(f"has a message in `{field}` that is not an object with role and content")
    if value.get("role") is None and value.get("from") is not None:
        speaker = value["from"]
        role = _ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            shown = ", ".join(_ROLES)
            raise ValueError(f"has a message in `{field}` whose `from` is none of {shown}; write role and content")
        rest = {name: each for name, each in value.items() if name not in ("from", "value", "role", "content")}
        value = {"role": role, "content": value.get("value"), **rest}
    if not isinstance(value.get("role"), str):
        raise ValueError(f"has a message in `{field}` without a role; write role and content")
    if not isinstance(value.get("content"), str):
        raise ValueError(f"has a message in `{field}` whose content is not a string; only text is taken")
    return {name: each for name, each in value.items() if each is not None}
