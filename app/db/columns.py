"""Column types that every table shares."""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel
from sqlalchemy import BigInteger, Column, DateTime, Double, Integer, String, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import mapped_column

from secateur.spec.records.history import forms_of

Id = Annotated[str, mapped_column(String(40), primary_key=True)]
Name = Annotated[str, mapped_column(String(200))]
Digest = Annotated[str, mapped_column(String(64))]
LongText = Annotated[str, mapped_column(Text)]
Json = Annotated[dict[str, Any], mapped_column(JSONB(none_as_null=True))]
JsonList = Annotated[list[Any], mapped_column(JSONB(none_as_null=True))]
Moment = Annotated[datetime, mapped_column(DateTime(timezone=True))]
Created = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.now())]
Updated = Annotated[
    datetime, mapped_column(DateTime(timezone=True), server_default=func.now(), onupdate=func.now())
]

_TYPES: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "integer": lambda form: Integer() if form["exclusiveMaximum"] == 2**31 else BigInteger(),
    "number": lambda form: Double(),
    "string": lambda form: String(form["maxLength"]),
    "object": lambda form: JSONB(none_as_null=True),
}


def columns_of(record: type[BaseModel], but: Collection[str] = ()) -> tuple[Column[Any], ...]:
    """A column for each field of a record, as wide as the field may be; for `__table_args__`."""
    return tuple(
        Column(name, _TYPES[form["type"]](form), nullable=optional)
        for name, form, optional in forms_of(record)
        if name not in but
    )
