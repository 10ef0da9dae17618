"""The OpenAPI document: FastAPI's, with our errors and the bodies that FastAPI cannot see."""

from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel

from app.jobs.event_forms import Event
from app.kit.headers import Sent, sends
from app.kit.problems import ProblemRead
from app.rates.middleware import UNCOUNTED
from secateur.spec.job import JobSpec

_DESCRIPTION = """Prunes large language models: continual jobs over an ordered list of domains.

Register a **model**, upload one **dataset** a domain, submit a **job**, poll it, read its history, download its
**artifacts**. Errors are `application/problem+json` (RFC 9457) with a stable `code`; the answer to somebody else's
id is 404. Every answer carries `X-Request-Id`. `HEAD` is taken wherever `GET` is, and answered with the same
headers."""


def install_openapi(app: FastAPI) -> None:
    """Complete the document once, when it is first asked for."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            document["info"]["description"] = _DESCRIPTION
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            _add(schemas, "Problem", ProblemRead, "serialization")
            _add(schemas, "EventRead", Event, "validation")
            _add(schemas, "JobSpec", JobSpec, "validation")
            _type(schemas)
            for address, path in document["paths"].items():
                for operation in path.values():
                    _add_headers(operation, counted=address not in UNCOUNTED)
            app.openapi_schema = document
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


_MADE: Final = (Sent.location, Sent.replayed)
_MAKING: Final = {"200": _MADE, "201": _MADE, "202": _MADE}
"""Of calls that take an `Idempotency-Key`, by status."""


def _add_headers(operation: dict[str, Any], *, counted: bool) -> None:
    """Those that no single route sends. counted: against a limit of calls a minute."""
    every = [Sent.request_id, *((Sent.rate_limit, Sent.rate_policy) if counted else ())]
    repeatable = any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", ()))
    for status, response in operation["responses"].items():
        those = [*every, *(_MAKING.get(status, ()) if repeatable else ())]
        response.setdefault("headers", {}).update(sends(*those)["headers"])


_TYPED: Final = {("JobRead", "spec"): "JobSpec", ("PlanRead", "spec"): "JobSpec"}
"""Stored JSON that is shown as it is → what it is. Older objects may lack fields that have a default."""


def _type(schemas: dict[str, Any]) -> None:
    """Give stored JSON its form."""
    for (name, field), form in _TYPED.items():
        fields = schemas[name]["properties"]
        fields[field] = {"$ref": f"#/components/schemas/{form}", "description": fields[field]["description"]}


def _add(schemas: dict[str, Any], name: str, model: type[BaseModel], mode: Any) -> None:
    schema = model.model_json_schema(mode=mode, ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[name] = schema
