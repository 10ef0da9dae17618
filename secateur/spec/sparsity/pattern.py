"""Which weights may go together: any, or at most so many of a group."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

_FORM: Final = re.compile(r"([1-9][0-9]{0,2}):([1-9][0-9]{0,2})")
_SLACK: Final = 1e-9
"""A target that differs from a pattern's by no more is the pattern's."""


@dataclass(frozen=True)
class Pattern:
    """Unstructured (both None), or at most `kept` non-zeros in every `group` consecutive inputs."""

    kept: int | None = None
    group: int | None = None

    @classmethod
    def parse(cls, text: Any) -> "Pattern":
        """From `unstructured` or n:m; a pattern is itself. Raises ValueError with the fix."""
        if isinstance(text, cls):
            return text
        if text == "unstructured":
            return cls()
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError("must be `unstructured` or n:m, for example 2:4")
        kept, group = int(match.group(1)), int(match.group(2))
        if kept >= group:
            raise ValueError("an n:m pattern keeps n of every m weights, so n must be less than m")
        return cls(kept, group)

    @property
    def sparsity(self) -> float | None:
        """The share of zeros an n:m pattern means; None when unstructured."""
        return None if self.kept is None or self.group is None else 1 - self.kept / self.group

    def __str__(self) -> str:
        return "unstructured" if self.group is None else f"{self.kept}:{self.group}"


PatternText = Annotated[
    Pattern,
    PlainValidator(Pattern.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string"}),
]
"""A field that holds a pattern; JSON has its text."""


def agree(target: float | None, pattern: Pattern | None) -> None:
    """Raises ValueError where the pattern implies another target."""
    implied = None if pattern is None else pattern.sparsity
    if target is not None and implied is not None and abs(target - implied) > _SLACK:
        raise ValueError(f"is {implied} by the pattern {pattern}; leave target out")
