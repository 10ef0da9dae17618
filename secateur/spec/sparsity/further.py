"""More targets of a job beside its own."""

from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from secateur.spec.sparsity.pattern import Pattern
from secateur.spec.strict import Choice


class FurtherStatistics(Choice):
    """From what a further target's model is solved."""

    own = "own"
    shared = "shared"


def _further(value: Any) -> "float | Pattern":
    if isinstance(value, float) and 0 < value < 1:
        return value
    pattern = Pattern.parse(value) if isinstance(value, str | Pattern) else Pattern()
    if pattern.sparsity is None:
        raise ValueError("must be a number between 0 and 1, or n:m, for example 0.6 or 2:4")
    return pattern


Further = Annotated[
    float | Pattern,
    PlainValidator(_further),
    PlainSerializer(lambda value: str(value) if isinstance(value, Pattern) else value),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, {"type": "string"}]}
    ),
]
"""One more target: a share of the weights, or an n:m pattern, which implies one."""


def further_name(further: Any) -> str:
    """What a stage of one more target is called. further: as in a spec, or its JSON. No domain has a blank in its
    name."""
    return f"at {further}"


def further_folder(further: Any) -> str:
    """Where an artifact has the model of one more target, as the folder beside `model`."""
    return f"targets/{further}".replace(":", "-")
