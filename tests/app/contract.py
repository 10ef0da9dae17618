"""Every answer in the tests is held against the service's own OpenAPI document: status, body, headers."""

import copy
import re
from functools import cache
from typing import Any, Final
from urllib.parse import quote

import httpx
import jsonschema_rs

from app.kit.headers import Sent

TOLD: Final = {header.lower() for header in Sent}
"""Headers that a call's documentation names when it sends them."""

_DOCUMENT: dict[str, Any] = {}


def document(url: str) -> dict[str, Any]:
    """The same for every service that the tests start."""
    if not _DOCUMENT:
        with httpx.Client(trust_env=False, timeout=60) as client:  # made at the first request
            _DOCUMENT.update(client.get(f"{url}/openapi.json").json())
    return _DOCUMENT


def check_documented(response: httpx.Response) -> None:
    """The status is documented for the call, and so are a problem's code, the body's form and the headers."""
    request = response.request
    place = f"{request.method} {request.url.path}: {response.status_code}"
    found = _operation(request)
    if found is None:
        assert response.status_code in (400, 404, 405) or not request.url.path.startswith("/v1/"), place
        return
    template, operation = found
    documented = operation["responses"].get(str(response.status_code))
    assert documented is not None, f"{place} is not documented"
    _check_headers(response, documented, place)
    kind = response.headers.get("content-type", "").partition(";")[0]
    if request.method == "HEAD" or not kind:
        return
    assert kind in documented.get("content", {}), f"{place}: {kind} is not documented"
    if kind.endswith("json"):
        response.read()
        body = response.json()
        path = (
            template,
            "get" if request.method == "HEAD" else request.method.lower(),
            str(response.status_code),
            kind,
        )
        errors = [
            f"{list(error.instance_path)}: {error.message[:300]}" for error in validator(path).iter_errors(body)
        ]
        assert not errors, f"{place}: {errors[:5]}"
        if kind == "application/problem+json":
            assert body["code"] in documented["content"][kind]["examples"], f"{place}: {response.text}"


def _check_headers(response: httpx.Response, documented: dict[str, Any], place: str) -> None:
    known = {name.lower() for name in documented.get("headers", {})}
    left = [name for name in response.headers if name in TOLD and name not in known]
    assert not left, f"{place} sends {left} unsaid; see app/kit/headers.py"


@cache
def validator(path: tuple[str, str, str, str]) -> Any:
    """Of a body, by path, method, status and media type. Unknown fields are mistakes."""
    parts = ("paths", path[0], path[1], "responses", path[2], "content", path[3], "schema")
    pointer = "/".join(quote(part.replace("~", "~0").replace("/", "~1"), safe="~") for part in parts)
    schema = {"$ref": f"urn:document#/{pointer}"}
    return jsonschema_rs.Draft202012Validator(schema, registry=_strict(), validate_formats=True)


@cache
def _strict() -> jsonschema_rs.Registry:
    """The document, read once for all validators, with every object closed that names its fields."""
    whole = copy.deepcopy(_DOCUMENT)
    pending: list[Any] = list(whole["components"]["schemas"].values())
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if item.get("type") == "object" and "properties" in item:
                item.setdefault("additionalProperties", False)
            pending.extend(value for name, value in item.items() if name not in ("example", "examples", "default"))
        elif isinstance(item, list):
            pending.extend(item)
    return jsonschema_rs.Registry([("urn:document", whole)])


def _operation(request: httpx.Request) -> tuple[str, dict[str, Any]] | None:
    """Its path in the document, and what is documented of it."""
    url = f"{request.url.scheme}://{request.url.host}:{request.url.port}"
    for template, operations in document(url)["paths"].items():
        pattern = re.sub(r"\{path\}", ".*", re.sub(r"\{(?!path\})\w+\}", "[^/]+", template))
        if re.fullmatch(pattern, request.url.path, re.DOTALL):
            method = request.method.lower()
            if method == "head" and method not in operations:
                method = "get"
            if method in operations:
                return template, dict(operations[method])
    return None
