"""Exceptions from what holds for all matrices."""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from secateur.spec.method import MethodName
from secateur.spec.regexes import regular
from secateur.spec.sparsity.pattern import PatternText, agree
from secateur.spec.strict import Strict
from secateur.spec.words import ONE_LINE

_Matcher = StringConstraints(min_length=1, max_length=300, pattern=ONE_LINE)


class Override(Strict):
    """An exception for the matrices whose whole name matches. Later ones win, field by field; `skip`, `target` and
    `pattern` together say how much is removed, so that each of them ends an earlier one that contradicts it."""

    match: Annotated[str, _Matcher] | None = Field(
        default=None,
        description="Glob over the checkpoint's tensor names; this or `regex`.",
        examples=["*.down_proj.weight"],
    )
    regex: Annotated[str, _Matcher, AfterValidator(regular)] | None = Field(
        default=None,
        description="Regular expression (RE2: no backreferences, no lookaround) over the same names. Counts such "
        r"as `\d{1,2}` go up to 9 and stand behind a character or a class; `\p` and `\Q` are not taken.",
        examples=[r"model\.layers\.[0-3]\..*"],
    )
    pattern: PatternText | None = Field(
        default=None,
        description="Pattern of these matrices. An n:m pattern is their target too; with `unstructured` in a job "
        "whose own pattern is n:m, a target must be given.",
        examples=["2:4"],
    )
    target: float | None = Field(
        default=None, ge=0, lt=1, description="Sparsity of these matrices; the others make up for it."
    )
    method: MethodName | None = Field(
        default=None,
        description="Selects and solves these matrices, from the job's own statistics and with its settings.",
    )
    skip: bool | None = Field(default=None, description="Leave these matrices as they are.")

    @field_validator("target")
    @classmethod
    def _as_the_pattern(cls, value: float | None, info: ValidationInfo) -> float | None:
        agree(value, info.data.get("pattern"))
        return value

    @model_validator(mode="after")
    def _one_thing(self) -> "Override":
        if (self.match is None) == (self.regex is None):
            raise ValueError("needs exactly one of `match` (a glob) and `regex`")
        asked = any(value is not None for value in (self.target, self.pattern, self.method))
        if asked == (self.skip is True):
            raise ValueError("needs `skip: true` alone, or some of `target`, `pattern` and `method`")
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}

    @property
    def says(self) -> str:
        """What is to match, as written."""
        return self.match if self.match is not None else str(self.regex)

    @property
    def matcher(self) -> str:
        """The field that says it."""
        return "regex" if self.match is None else "match"
