"""Every answer in the tests is held against the service's own OpenAPI document."""

import re
from typing import Any

import httpx

from app.kit.headers import Sent

TOLD = {header.lower() for header in Sent}
"""Headers that a call's documentation names when it sends them."""
_PATHS: dict[str, Any] = {}


def _paths(url: str) -> dict[str, Any]:
    """The same for every service that the tests start."""
    if not _PATHS:
        with httpx.Client(trust_env=False, timeout=60) as client:  # made at the first request
            _PATHS.update(client.get(f"{url}/openapi.json").json()["paths"])
    return _PATHS


def check_documented(response: httpx.Response) -> None:
    """The status is documented for the call, and so is a problem's code."""
    request = response.request
    operation = _operation(request)
    if operation is None:
        assert response.status_code in (400, 404, 405) or not request.url.path.startswith("/v1/")
        return
    documented = operation["responses"].get(str(response.status_code))
    assert documented is not None, f"{request.method} {request.url.path}: {response.status_code} is not documented"
    declared = {name.lower() for name in documented.get("headers", {})}
    undeclared = {name for name in response.headers if name in TOLD} - declared
    what = f"{request.method} {request.url.path} {response.status_code}"
    assert not undeclared, f"{what} sends {undeclared} unsaid; see app/kit/headers.py"
    if response.headers.get("content-type") == "application/problem+json":
        response.read()
        examples = documented["content"]["application/problem+json"]["examples"]
        if request.method != "HEAD":
            assert response.json()["code"] in examples, f"{request.method} {request.url.path}: {response.text}"


def _operation(request: httpx.Request) -> dict[str, Any] | None:
    url = f"{request.url.scheme}://{request.url.host}:{request.url.port}"
    for template, operations in _paths(url).items():
        pattern = re.sub(r"\{path\}", ".*", re.sub(r"\{(?!path\})\w+\}", "[^/]+", template))
        if re.fullmatch(pattern, request.url.path, re.DOTALL):
            method = request.method.lower()
            if method == "head" and method not in operations:
                method = "get"
            if method in operations:
                return dict(operations[method])
    return None
