"""JSON from strangers, read by the letter: no NaN, no infinity, no key twice in an object."""

import json
from typing import Any, Never


def loads(data: bytes) -> Any:
    """The document's value. Raises ValueError for other JSON, UnicodeDecodeError (one) for what is not UTF-8, and
    RecursionError."""
    return json.loads(data.decode(), parse_constant=_no_constant, object_pairs_hook=_unique)


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found
