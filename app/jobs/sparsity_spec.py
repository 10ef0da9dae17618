"""How much is removed, where and in which pattern, as callers say it. The engine has the same rules."""

import re
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from app.jobs.method_spec import METHODS
from app.kit.fields import Strict

_PATTERN: Final = re.compile(r"([1-9][0-9]{0,2}):([1-9][0-9]{0,2})")
_COSTLY: Final = re.compile(r"\\[pPQ]|\)\{|\{[^}]*[0-9]{2}")
"""Of what RE2 takes, all that makes a program far longer than its expression: big counts, counted groups (also
behind an empty quotation) and Unicode's classes. Without them 300 characters compile in milliseconds."""
_METHODS: Final = [str(get_args(method.model_fields["name"].annotation)[0]) for method in METHODS]


def implied_target(pattern: str) -> float | None:
    """Sparsity of an n:m pattern, of which n weights in every m are kept; None for `unstructured`.

    Raises ValueError for anything else.
    """
    if pattern == "unstructured":
        return None
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        raise ValueError("must be `unstructured` or n:m, for example 2:4")
    kept, group = int(match.group(1)), int(match.group(2))
    if kept >= group:
        raise ValueError("an n:m pattern keeps n of every m weights, so n must be less than m")
    return 1 - kept / group


def _known_pattern(pattern: str) -> str:
    implied_target(pattern)
    return pattern


def _known_method(name: str) -> str:
    if name not in _METHODS:
        raise ValueError(f"must be one of: {', '.join(_METHODS)}")
    return name


def _regular(expression: str) -> str:
    """Compiles it as the engine does: in RE2, by way of Arrow, and only what cannot be costly there.

    Python's own `re` takes seconds for some short classes, and requests are read where nothing else goes on.
    """
    if _COSTLY.search(expression):
        raise ValueError(
            r"must not count above 9, count a group or use \p or \Q; repeat with * or +, spell the characters out"
        )
    import pyarrow  # only for those who ask: its import takes time and memory
    from pyarrow import compute

    try:
        compute.match_substring_regex(pyarrow.array([""]), pattern=expression)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"is not a regular expression: {error} (RE2 syntax)") from None
    return expression


Pattern = Annotated[str, AfterValidator(_known_pattern)]
MethodName = Annotated[
    str, AfterValidator(_known_method), WithJsonSchema({"type": "string", "enum": list(_METHODS)})
]
_Matcher = StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")


class Override(Strict):
    """An exception for the matrices whose whole name matches. Later ones win, field by field; `skip`, `target` and
    `pattern` together say how much is removed, so that each of them ends an earlier one that contradicts it."""

    match: Annotated[str, _Matcher] | None = Field(
        default=None,
        description="Glob over the checkpoint's tensor names; this or `regex`.",
        examples=["*.down_proj.weight"],
    )
    regex: Annotated[str, _Matcher, AfterValidator(_regular)] | None = Field(
        default=None,
        description="Regular expression (RE2: no backreferences, no lookaround) over the same names. Counts such "
        r"as `\d{1,2}` go up to 9 and stand behind a character or a class; `\p` and `\Q` are not taken.",
        examples=[r"model\.layers\.[0-3]\..*"],
    )
    target: float | None = Field(
        default=None, ge=0, lt=1, description="Sparsity of these matrices; the others make up for it."
    )
    pattern: Pattern | None = Field(
        default=None,
        description="Pattern of these matrices. An n:m pattern is their target too; with `unstructured` in a job "
        "whose own pattern is n:m, a target must be given.",
        examples=["2:4"],
    )
    method: MethodName | None = Field(
        default=None,
        description="Selects and solves these matrices, from the job's own statistics and with its settings.",
    )
    skip: bool | None = Field(default=None, description="Leave these matrices as they are.")

    @model_validator(mode="after")
    def _one_thing(self) -> "Override":
        if (self.match is None) == (self.regex is None):
            raise ValueError("needs exactly one of `match` (a glob) and `regex`")
        asked = any(value is not None for value in (self.target, self.pattern, self.method))
        if asked == (self.skip is True):
            raise ValueError("needs `skip: true` alone, or some of `target`, `pattern` and `method`")
        implied = implied_target(self.pattern or "unstructured")
        if implied is not None and self.target is not None and abs(self.target - implied) > 1e-9:
            raise ValueError(f"the pattern {self.pattern} implies the target {implied}; leave target out")
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}


class Sparsity(Strict):
    """How much is removed, and in which pattern."""

    target: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of all prunable weights (that no override skips) to remove, met to the weight. "
        "An n:m pattern implies it, and with overrides of such a job the real total is what they come to.",
    )
    pattern: Pattern = Field(
        default="unstructured",
        description="`unstructured`, or n:m: n of every m consecutive inputs are KEPT, as in 2:4.",
        examples=["unstructured", "2:4"],
    )
    allocation: Literal["uniform", "owl", "error"] | None = Field(
        default=None,
        description="How the matrices share the target. `uniform`: all at one rate; `owl`: by block, less where "
        "there are more outliers; `error`: by matrix and row, where the loss should rise least, measured by one "
        "pass forward and one backward over the dense model. Default: `error` with the pattern `unstructured`; "
        "n:m fixes every rate and takes none.",
    )
    keep_zeros: bool = Field(
        default=False,
        description="Every zero of the model as it came stays zero, so that a 2:4 model stays 2:4. They count "
        "towards the target; a matrix with more of them than its share keeps them all.",
    )
    overrides: list[Override] = Field(default=[], max_length=100, description="In order; all that match count.")

    @model_validator(mode="after")
    def _agree(self) -> "Sparsity":
        implied = implied_target(self.pattern)
        if implied is None:
            if self.target is None:
                raise ValueError("target is required with the pattern unstructured")
            self.allocation = self.allocation or "error"
            return self
        if self.target is not None and abs(self.target - implied) > 1e-9:
            raise ValueError(f"the pattern {self.pattern} implies the target {implied}; leave target out")
        if self.allocation not in (None, "uniform"):
            raise ValueError(f"the pattern {self.pattern} fixes every rate; leave allocation out")
        for number, override in enumerate(self.overrides):
            self._refuse_open_rate(number, override)
        self.target = implied
        self.allocation = "uniform"
        return self

    def _refuse_open_rate(self, number: int, override: Override) -> None:
        """Beside an n:m pattern no budget is shared out, so every rate must be said."""
        if override.target is not None and override.pattern is None:
            message = (
                f'the pattern {self.pattern} implies every target; add "pattern": "unstructured" or choose n:m'
            )
            raise ValueError(f"overrides/{number}: {message}")
        if override.pattern == "unstructured" and override.target is None:
            message = f"needs a target, because beside the pattern {self.pattern} there is no budget to share"
            raise ValueError(f"overrides/{number}: {message}")
