"""Globs over repository paths, in linear time: a dataset's README may hold any glob."""

import re
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Final

from secateur.spec import regexes
from worker.intake.dataset_card import invalid

MAX_GLOBS: Final = 1000
"""Of a split; paths without a wildcard are not counted."""
MAX_WILDCARDS: Final = 6

_WILD: Final = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^\]/\\\[]+\]")


def matching(patterns: Sequence[str], paths: Sequence[str], check: Callable[[], None]) -> list[str]:
    """Those of `paths` that one of the patterns matches as a whole: `*` stays in a folder, `**` does not.

    No glob makes it take more than time linear in the path.
    """
    globs = [pattern for pattern in patterns if _WILD.search(pattern)]
    if len(globs) > MAX_GLOBS:
        raise invalid("a split has too many paths with wildcards")
    found = set(patterns).difference(globs)
    column = regexes.column_of(paths)
    for glob in globs:
        check()
        try:
            found.update(compress(paths, regexes.matches(_expression(glob), column)))
        except ValueError as error:  # a range that runs backwards
            raise invalid("a path is not a glob") from error
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
    return f"(?s){''.join(parts)}{re.escape(glob[position:])}"


def _wildcard(sign: str) -> str:
    if sign.startswith("["):
        body = sign[1:-1]
        return f"[^/{body[1:]}]" if body.startswith("!") else f"[{body}]"
    return {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}[sign]
