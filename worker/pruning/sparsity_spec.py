"""How much is removed, and where: plain dataclasses, read from the engine's request."""

from dataclasses import dataclass
from enum import StrEnum

from worker.pruning.errors import SpecError
from worker.pruning.fields import Fields
from worker.pruning.method_spec import MethodName
from worker.pruning.patterns import Pattern


class Allocation(StrEnum):
    """How the free matrices share an unstructured target."""

    uniform = "uniform"  # every matrix at the same rate
    owl = "owl"  # by the share of outliers in its activations (Yin et al. 2023, arXiv 2310.05175)
    error = "error"  # where the loss should rise least, by one pass forward and one backward


def usual_allocation(pattern: Pattern) -> Allocation:
    """What a request that names none gets: n:m fixes every rate, so that there is nothing to share out."""
    return Allocation.error if pattern.sparsity is None else Allocation.uniform


REGEX_LENGTH = 300
"""Characters of an override's regular expression at most, as in the API."""


@dataclass(frozen=True)
class Override:
    """An exception for the matrices whose name in the checkpoint matches, as a whole; see `overrides.Verdict`."""

    field: str
    """JSON pointer, for errors."""
    match: str | None = None
    """Glob; this or `regex`."""
    regex: str | None = None
    """Regular expression in RE2's syntax."""
    target: float | None = None
    pattern: Pattern | None = None
    method: MethodName | None = None
    skip: bool = False

    @property
    def says(self) -> str:
        """What is to match, as written."""
        return self.match if self.match is not None else str(self.regex)

    @property
    def pointer(self) -> str:
        """To what is to match."""
        return f"{self.field}/{'regex' if self.match is None else 'match'}"

    @classmethod
    def read(cls, fields: Fields) -> "Override":
        override = cls(
            field=fields.pointer,
            match=fields.text("match", None),
            regex=fields.text("regex", None),
            target=fields.number("target", None, high=1.0),
            pattern=_pattern(fields, None),
            method=fields.choice("method", MethodName) if fields.raw("method") is not None else None,
            skip=fields.flag("skip", False),
        )
        fields.finish()
        if (override.match is None) == (override.regex is None):
            raise SpecError(fields.pointer, "needs exactly one of `match` (a glob) and `regex`")
        if override.regex is not None and len(override.regex) > REGEX_LENGTH:
            raise SpecError(fields.at("regex"), f"must have at most {REGEX_LENGTH} characters")
        asked = (override.target, override.pattern, override.method)
        if override.skip == any(value is not None for value in asked):
            raise SpecError(
                fields.pointer, "needs `skip` (true) alone, or some of `target`, `pattern` and `method`"
            )
        own = override.pattern.sparsity if override.pattern is not None else None
        if override.target is not None and own is not None and abs(override.target - own) > 1e-9:
            raise SpecError(fields.at("target"), f"pattern {override.pattern} sets it to {own}; leave it out")
        return override


def _pattern(fields: Fields, default: str | None) -> Pattern | None:
    text = fields.text("pattern", default)
    try:
        return None if text is None else Pattern.parse(text)
    except ValueError as error:
        raise SpecError(fields.at("pattern"), str(error)) from None


@dataclass(frozen=True)
class Sparsity:
    target: float
    pattern: Pattern
    overrides: tuple[Override, ...] = ()
    allocation: Allocation = Allocation.uniform
    keep_zeros: bool = False
    """Zeros of the model as it came stay zeros, and count towards the target."""

    @classmethod
    def read(cls, fields: Fields) -> "Sparsity":
        pattern = _pattern(fields, "unstructured") or Pattern()
        target = fields.number("target", pattern.sparsity, high=1.0)
        if target is None:
            raise SpecError(fields.at("target"), "is required for an unstructured pattern")
        allocation = fields.choice("allocation", Allocation, usual_allocation(pattern))
        overrides = tuple(Override.read(item) for item in fields.children("overrides", optional=True))
        keep_zeros = fields.flag("keep_zeros", False)
        fields.finish()
        if pattern.sparsity is not None:
            if abs(target - pattern.sparsity) > 1e-9:
                raise SpecError(
                    fields.at("target"), f"pattern {pattern} sets it to {pattern.sparsity}; leave it out"
                )
            if allocation is not Allocation.uniform:
                raise SpecError(
                    fields.at("allocation"), f"pattern {pattern} fixes every rate; leave allocation out"
                )
            _refuse_open_rates(pattern, overrides)
        elif not 0 < target < 1:
            raise SpecError(fields.at("target"), "must be more than 0 and less than 1")
        return cls(target, pattern, overrides, allocation, keep_zeros)


def _refuse_open_rates(pattern: Pattern, overrides: tuple[Override, ...]) -> None:
    """Under an n:m pattern nothing is shared out, so each rate must be said: by a pattern, or with no pattern."""
    for override in overrides:
        free = override.pattern is not None and override.pattern.sparsity is None
        if override.target is not None and override.pattern is None:
            message = f'pattern {pattern} sets every target; add "pattern": "unstructured", or choose another n:m'
            raise SpecError(f"{override.field}/target", message)
        if free and override.target is None:
            message = f"is required here: beside the job's pattern {pattern} there is no budget to share"
            raise SpecError(f"{override.field}/target", message)
