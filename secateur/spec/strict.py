"""What every part of a spec has in common: frozen, nothing unknown, nothing converted in silence."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, LiteralString, NamedTuple

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from secateur.spec.words import words

ABSENT: Final = "missing"
"""The type of an error about a field that should have been there."""


class Strict(BaseModel):
    """Base of everything that is sent: unknown fields are errors, and nothing is converted in silence."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Choice(StrEnum):
    """One of several words. JSON has the word itself."""

    def __repr__(self) -> str:
        return repr(self.value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Without a name of its own in documents: each field lists its words.
        return {key: value for key, value in handler(source).items() if key != "ref"} | {"strict": False}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "enum": [each.value for each in cls]}


class Refusal(NamedTuple):
    """What is wrong with one field of a model."""

    place: tuple[int | str, ...]
    message: str
    value: Any = None
    kind: LiteralString = "contradiction"
    """ABSENT for a field that the document may lack."""


def refuse(model: BaseModel, refusals: Iterable[Refusal]) -> None:
    """Raise a ValidationError of them all at their places, if there are any."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(each.kind, "{message}", {"message": each.message}),
            loc=each.place,
            input=each.value,
        )
        for each in refusals
    ]
    if details:
        raise ValidationError.from_exception_data(type(model).__name__, details)


def at_field(message: str) -> PydanticCustomError:
    """An error of a field that the document may lack: then its default is wrong, and the field must be given."""
    return PydanticCustomError(ABSENT, "{message}", {"message": message})


def explain(error: Any, body: Any) -> tuple[str, str]:
    """JSON pointer (RFC 6901) into the body, and words, for one of a ValidationError's errors."""
    place, kind, context = list(error["loc"]), error["type"], error.get("ctx") or {}
    # `missing` is also a kind of our own, with our words.
    message = context["message"] if "message" in context else words(kind, context, str(error["msg"]))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        place, kind = [*place, context["discriminator"].strip("'")], ABSENT
    return pointer_of(place, body, absent=kind == ABSENT), message


def _names(value: Any) -> Any:
    return value.get("name") if isinstance(value, dict) else None


def pointer_of(place: Sequence[int | str], body: Any, *, absent: bool) -> str:
    """JSON pointer of a place, without the tags of unions and other steps that the document lacks.

    absent: its last part is a field that should have been there.
    """
    path: list[str] = []
    here = body
    for position, part in enumerate(place):
        last = position == len(place) - 1
        if position and place[position - 1] == "method" and not last and _names(here) == part:
            continue  # the union's tag, which may be the name of one of its fields too
        inside = (isinstance(here, dict) and part in here) or (
            isinstance(here, list | tuple) and isinstance(part, int) and part < len(here)
        )
        if inside:
            here = here[part]
        elif not (absent and last):
            continue
        path.append(str(part).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in path)
