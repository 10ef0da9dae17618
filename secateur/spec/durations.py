"""Lengths of time as callers write them: `12h`, `90s`, `1d12h30m`."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, StringConstraints, WithJsonSchema

_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_FORM: Final = re.compile(r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")
LONGEST_SECONDS: Final = 365 * 86_400


def parse_duration(text: str) -> int:
    """Seconds. Raises ValueError unless it is a sum of d, h, m and s in this order, of one second to 365 days."""
    match = _FORM.fullmatch(text)
    if match is None or not text:
        raise ValueError("must be a duration such as 90s, 12h or 1d6h30m")
    seconds = sum(int(part or 0) * unit for part, unit in zip(match.groups(), _UNITS.values(), strict=True))
    if not 1 <= seconds <= LONGEST_SECONDS:
        raise ValueError("must be between 1s and 365d")
    return seconds


def format_duration(seconds: int) -> str:
    """The shortest way to write it, in the largest units."""
    parts = []
    for unit, size in _UNITS.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _normal(text: str) -> str:
    return format_duration(parse_duration(text))


Duration = Annotated[
    str,
    StringConstraints(max_length=40),
    AfterValidator(_normal),
    WithJsonSchema({"type": "string", "pattern": r"^(\d+d)?(\d+h)?(\d+m)?(\d+s)?$", "examples": ["12h", "90s"]}),
]
"""A field that holds one; it is kept in the shortest form."""
