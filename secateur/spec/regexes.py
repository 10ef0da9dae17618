"""Regular expressions of strangers run in RE2 (by way of Arrow): in time linear in the text, whatever they are.

RE2 bounds its memory, and knows no backreferences and no lookaround. Python's own `re` takes seconds for some
short classes already, and requests are read where nothing else goes on.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

_COSTLY: Final = re.compile(r"\\[pPQ]|\)\{|\{[^}]*[0-9]{2}")
"""Of what RE2 takes, all that makes a program far longer than its expression: big counts, counted groups (also
behind an empty quotation) and Unicode's classes. Without them 300 characters compile in milliseconds."""


def regular(expression: str) -> str:
    """Refuse what RE2 does not take, and what may take it long to compile. Raises ValueError."""
    if _COSTLY.search(expression):
        raise ValueError(
            r"must not count above 9, count a group or use \p or \Q; repeat with * or +, spell the characters out"
        )
    try:
        _search(expression, column_of([""]))
    except ImportError:  # the bare install sends, and leaves this to who receives
        pass
    except ValueError as error:
        raise ValueError(f"is not a regular expression: {error} (RE2 syntax)") from None
    return expression


def column_of(texts: Sequence[str]) -> Any:
    """The texts as `matches` reads them, as often as need be. Half of a surrogate pair is a question mark."""
    import pyarrow  # only for those who ask: its import takes time and memory

    return pyarrow.array([text.encode(errors="replace") for text in texts], pyarrow.binary()).cast("string")


def matches(expression: str, column: Any) -> list[bool]:
    """Of each text, whether the expression matches it as a whole. Raises ValueError for what RE2 does not take."""
    return _search(rf"\A(?:{expression})\z", column)


def _search(expression: str, column: Any) -> list[bool]:
    from pyarrow import compute

    return list(compute.match_substring_regex(column, pattern=expression).to_pylist())
