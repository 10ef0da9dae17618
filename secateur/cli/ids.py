"""Ids as people give them: whole, by how they begin, or by name; and what the shell completes them to."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

import typer

from secateur.cli.connection import connect
from secateur.client import Client
from secateur.errors import SecateurError
from secateur.transport import Answer, Json

LEAST: Final = 4
"""Hexadecimal digits that an id is known by at the least."""
DIGITS: Final = 32
OF_TIME: Final = 12
"""Digits of an id that are the millisecond it was made in."""
CLOCKS: Final = timedelta(minutes=1)
"""By which the clocks behind an id and behind `created_at` may differ."""
COMPLETED: Final = 50
"""So many of the newest are offered to the shell."""
COMPLETION_SECONDS: Final = 3.0
SHOWN: Final = 5

_LISTS: Final[dict[str, Callable[..., Iterator[Answer]]]] = {
    "job": Client.jobs,
    "mdl": Client.models,
    "ds": Client.datasets,
    "pln": Client.plans,
    "whk": lambda client, **_: client.webhooks.list(),
    "prj": lambda client, **_: client.projects.list(),
}
"""What there is of each kind, newest first."""
_DATED: Final = {"job", "pln"}
"""Kinds whose list can be narrowed by time."""


def find(client: Client, kind: str, text: str) -> str:
    """The id that begins so, or is named so; the text itself when there is none, for the server to refuse.

    Raises BadParameter when there are several.
    """
    digits = _digits(kind, text)
    if digits is not None and len(digits) == DIGITS:
        return text if "_" in text else f"{kind}_{text}"
    dated = kind in _DATED and digits is not None
    if digits is None and kind not in ("mdl", "ds"):
        return text
    named: list[str] = []
    begun: list[str] = []
    for each in _LISTS[kind](client, **(_made_then(digits) if dated and digits is not None else {"limit": 200})):
        id = str(each["id"])
        if digits is not None and id.startswith(f"{kind}_{digits}"):
            begun.append(id)
        elif each.get("name") == text and each.get("state") != "failed":
            named.append(id)
    if named:
        return named[0]  # the newest
    if len(begun) > 1:
        some = ", ".join(begun[:SHOWN]) + (", …" if len(begun) > SHOWN else "")
        raise typer.BadParameter(f"{text!r} is how {len(begun)} ids begin: {some}")
    return begun[0] if begun else text


def whole(kind: str) -> Callable[[typer.Context, Any], Any]:
    """The callback of an argument that is an id, or a list of them."""

    def complete(context: typer.Context, value: Any) -> Any:
        texts = value if isinstance(value, list | tuple) else [value]
        if context.resilient_parsing or not any(is_short(kind, text) for text in texts):
            return value
        with connect(context) as client:
            found = [find(client, kind, text) if is_short(kind, text) else text for text in texts]
        return found if isinstance(value, list | tuple) else found[0]

    return complete


def completion(kind: str) -> Callable[[typer.Context, str], list[tuple[str, str]]]:
    """What a shell offers for an id: the newest, with what they are; nothing where no server answers in time."""

    def complete(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        try:
            with connect(context, timeout=COMPLETION_SECONDS, retry_seconds=0) as client:
                found = list(islice(_LISTS[kind](client, limit=COMPLETED), COMPLETED))
        except SecateurError:
            return []
        offered = [(str(each["id"]), _about(each)) for each in found]
        if kind in ("mdl", "ds"):
            offered += [(str(each["name"]), str(each["id"])) for each in found if " " not in str(each["name"])]
        return [each for each in offered if each[0].startswith(incomplete)]

    return complete


def _about(each: Answer) -> str:
    words = (each.get(name) for name in ("name", "state", "method"))
    domains = (domain["name"] for domain in (each.get("spec") or {}).get("domains", ()))
    return " ".join(str(word) for word in (*words, *domains) if word)


def _digits(kind: str, text: str) -> str | None:
    found = re.fullmatch(rf"(?:{kind}_)?([0-9a-f]{{{LEAST},{DIGITS}}})", text)
    return found[1] if found else None


def is_short(kind: str, text: Any) -> bool:
    """Whether a text can be how an id begins."""
    digits = _digits(kind, text) if isinstance(text, str) else None
    return digits is not None and not (len(digits) == DIGITS and "_" in text)


def _made_then(digits: str) -> Json:
    """The filters of a list that hold for every id with these first digits."""
    time = digits[:OF_TIME]
    first, last = (int(time.ljust(OF_TIME, fill), 16) / 1000 for fill in "0f")
    try:
        after, before = (datetime.fromtimestamp(each, UTC) for each in (first, last))
        return {
            "created_after": (after - CLOCKS).isoformat(),
            "created_before": (before + CLOCKS).isoformat(),
            "limit": 200,
        }
    except (OverflowError, ValueError):
        return {"limit": 200}
