"""The documents of a JSON-lines text: one rule for who takes it in and who prunes on it."""

import json
import re
from typing import Final

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""What JSON may hold and no tokenizer takes."""


def read_document(line: bytes, field: str) -> str:
    """The text of one line, under `field`. Raises ValueError; its words follow "line 7": the fault and the fix."""
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8; convert the text to UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON; write one JSON object a line") from None
    if not isinstance(row, dict):
        raise ValueError(f'is not a JSON object; write {{"{field}": "…"}}')
    text = row.get(field)
    if not isinstance(text, str):
        raise ValueError(f"has no string under `{field}`; name the field as text_field")
    if _SURROGATE.search(text):
        raise ValueError(f"has half of a pair of surrogates (\\ud800 to \\udfff) in `{field}`; remove it")
    return text
