"""The Range header, for one range (RFC 9110, section 14)."""

import re
from typing import Final

_SINGLE: Final = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


class Unsatisfiable(Exception):
    """The range lies outside the file."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """[start, end) of a single range within `size` bytes; None for the whole file.

    Several ranges and unknown forms are ignored, as the standard allows. Raises Unsatisfiable.
    """
    match = _SINGLE.fullmatch((header or "").strip().replace(" ", ""))
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise Unsatisfiable
        return size - length, size
    start, end = int(first), min(int(last) + 1, size) if last else size
    if last and int(last) < int(first):
        return None
    if start >= size:
        raise Unsatisfiable
    return start, end
