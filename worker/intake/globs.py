"""Globs over repository paths, in linear time: a dataset's README may hold any glob."""

import re
from collections.abc import Callable, Sequence
from typing import Final

import pyarrow as pa
from pyarrow import compute

from worker.intake.dataset_card import invalid

MAX_GLOBS: Final = 1000
"""Of a split; paths without a wildcard are not counted."""
MAX_WILDCARDS: Final = 6

_WILD: Final = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^\]/\\\[]+\]")


def matching(patterns: Sequence[str], paths: Sequence[str], check: Callable[[], None]) -> list[str]:
    """Those of `paths` that one of the patterns matches as a whole: `*` stays in a folder, `**` does not.

    The matching is RE2's (by way of Arrow): no glob makes it take more than time linear in the path.
    """
    globs = [pattern for pattern in patterns if _WILD.search(pattern)]
    if len(globs) > MAX_GLOBS:
        raise invalid("a split has too many paths with wildcards")
    found = set(patterns).difference(globs)
    column = pa.array([path.encode(errors="replace") for path in paths], pa.binary()).cast(pa.string())
    for glob in globs:
        check()
        try:
            hits = compute.match_substring_regex(column, pattern=_expression(glob)).to_pylist()
        except pa.ArrowInvalid as error:  # a range that runs backwards
            raise invalid("a path is not a glob") from error
        found.update(path for path, hit in zip(paths, hits, strict=True) if hit)
    return [path for path in paths if path in found]


def _expression(glob: str) -> str:
    """In RE2's syntax."""
    parts, position, wild = [], 0, 0
    for match in _WILD.finditer(glob):
        parts.append(re.escape(glob[position : match.start()]))
        parts.append(_wildcard(match.group()))
        position, wild = match.end(), wild + 1
    if wild > MAX_WILDCARDS:
        raise invalid("a path has too many wildcards")
    return rf"\A(?s:{''.join(parts)}{re.escape(glob[position:])})\z"


def _wildcard(sign: str) -> str:
    if sign.startswith("["):
        body = sign[1:-1]
        return f"[^/{body[1:]}]" if body.startswith("!") else f"[{body}]"
    return {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}[sign]
