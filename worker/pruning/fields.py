"""Reading a JSON object field by field, with errors that point at the field and say the fix."""

import math
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar

from worker.pruning.errors import SpecError

E = TypeVar("E", bound=Enum)
MISSING: Any = object()


class Fields:
    """One JSON object and the pointer to it. Every getter marks its field known; `finish` refuses the others."""

    def __init__(self, value: Any, pointer: str = "") -> None:
        if not isinstance(value, Mapping):
            raise SpecError(pointer, "must be a JSON object")
        self._values = value
        self._known: set[str] = set()
        self.pointer = pointer

    def _take(self, name: str, default: Any) -> Any:
        self._known.add(name)
        value = self._values.get(name)
        if value is None:
            if default is MISSING:
                raise SpecError(self.at(name), "is required")
            return default
        return value

    def at(self, name: str | int) -> str:
        """JSON pointer of a field of this object (RFC 6901)."""
        return f"{self.pointer}/{str(name).replace('~', '~0').replace('/', '~1')}"

    def text(self, name: str, default: Any = MISSING) -> Any:
        value = self._take(name, default)
        if value is not default and (not isinstance(value, str) or not value):
            raise SpecError(self.at(name), "must be a non-empty string")
        return value

    def integer(self, name: str, default: Any = MISSING, *, low: int = 0, high: int | None = None) -> int:
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise SpecError(self.at(name), "must be an integer")
        if value < low or (high is not None and value > high):
            raise SpecError(self.at(name), f"must be {_range(low, high)}")
        return value

    def number(
        self,
        name: str,
        default: Any = MISSING,
        *,
        low: float = 0.0,
        high: float | None = None,
        above: bool = False,
    ) -> Any:
        """A finite number in [low, high], or in (low, high] when `above`; the default is returned untouched."""
        value = self._take(name, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SpecError(self.at(name), "must be a finite number")
        if value < low or (above and value == low) or (high is not None and value > high):
            raise SpecError(self.at(name), f"must be {'more than' if above else ''} {_range(low, high)}".strip())
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise SpecError(self.at(name), "must be true or false")
        return value

    def choice(self, name: str, kind: type[E], default: E | None = None) -> E:
        value = self._take(name, MISSING if default is None else default)
        try:
            return kind(value)
        except ValueError:
            allowed = ", ".join(str(member.value) for member in kind)
            raise SpecError(self.at(name), f"must be one of: {allowed}") from None

    def child(self, name: str, *, optional: bool = False) -> "Fields | None":
        value = self._take(name, None if optional else MISSING)
        return None if value is None else Fields(value, self.at(name))

    def required(self, name: str) -> "Fields":
        return Fields(self._take(name, MISSING), self.at(name))

    def children(self, name: str, *, optional: bool = False) -> Iterator["Fields"]:
        value = self._take(name, [] if optional else MISSING)
        if not isinstance(value, list):
            raise SpecError(self.at(name), "must be a list")
        for index, item in enumerate(value):
            yield Fields(item, f"{self.at(name)}/{index}")

    def raw(self, name: str, default: Any = None) -> Any:
        return self._take(name, default)

    def finish(self) -> None:
        """Refuse fields nobody asked for: a typing error must not be ignored in silence."""
        for name in self._values:
            if name not in self._known:
                raise SpecError(self.at(name), f"is not known here; known: {', '.join(sorted(self._known))}")


def _range(low: float, high: float | None) -> str:
    return f"at least {low}" if high is None else f"between {low} and {high}"
