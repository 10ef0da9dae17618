"""/v1/methods: what can be asked for, read off the job spec itself."""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal, get_args

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from app.auth.dependencies import JobsRead
from app.kit.conditions import CURRENT, IfNoneMatch, none_match
from app.kit.headers import Sent, sends
from app.kit.pagination import Page
from app.kit.problems import problems
from secateur.spec.method import METHODS
from secateur.spec.strict import Strict

router = APIRouter(prefix="/v1/methods", tags=["methods"])


class ParameterRead(BaseModel):
    """One parameter of a method; a dot leads into a nested object."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    name: str = Field(examples=["admm.iterations"])
    description: str
    default: Any
    json_schema: dict[str, Any] = Field(alias="schema", description="JSON Schema of its values.")


class MethodRead(BaseModel):
    """A method of pruning."""

    model_config = ConfigDict(title="Method")

    object: Literal["method"] = "method"
    name: str
    description: str
    parameters: list[ParameterRead]


@router.get(
    "",
    summary="Methods and their parameters",
    response_model=Page[MethodRead],
    responses={200: sends(Sent.etag), 304: sends(Sent.etag, description=CURRENT), **problems()},
)
async def list_methods(auth: JobsRead, if_none_match: IfNoneMatch = None) -> Response:
    """What `method` of a job may be, with every parameter's meaning and default. It changes with the release."""
    content, tag = _content()
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if not none_match(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    return Response(content, 200, headers, "application/json")


@lru_cache
def _content() -> tuple[bytes, str]:
    """The answer and its tag, made once."""
    page = Page[MethodRead](data=[_describe(*each) for each in METHODS.items()], next_cursor=None)
    content = page.model_dump_json().encode()
    return content, f'"{hashlib.sha256(content).hexdigest()}"'


def _describe(name: str, method: type[Strict]) -> MethodRead:
    text = " ".join((method.__doc__ or "").split())
    return MethodRead(name=name, description=text, parameters=list(_parameters(method, "")))


def _parameters(model: type[BaseModel], prefix: str) -> Iterator[ParameterRead]:
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        if name == "name":
            continue
        kinds = (each for each in (field.annotation, *get_args(field.annotation)) if isinstance(each, type))
        nested = [each for each in kinds if issubclass(each, BaseModel)]
        if nested:
            yield from _parameters(nested[0], f"{prefix}{name}.")
            continue
        schema = {
            key: value for key, value in properties[name].items() if key not in ("title", "description", "default")
        }
        yield ParameterRead(
            name=f"{prefix}{name}", description=field.description or "", default=field.default, json_schema=schema
        )
