"""JSON from strangers, read by the letter: no NaN, no infinity, no key twice in an object, no endless number."""

import json
from typing import Any, Final, Never

LONGEST_NUMBER: Final = 400
"""Characters; the largest float has 309 digits."""


def loads(data: bytes) -> Any:
    """The document's value. Raises ValueError for other JSON, UnicodeDecodeError (one) for what is not UTF-8, and
    RecursionError."""
    return json.loads(
        data.decode(),
        parse_constant=_no_constant,
        parse_int=_integer,
        parse_float=_float,
        object_pairs_hook=_unique,
    )


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON number")


def _integer(text: str) -> int:
    return int(_short(text))


def _float(text: str) -> float:
    return float(_short(text))


def _short(text: str) -> str:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number has more than {LONGEST_NUMBER} digits")
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found
