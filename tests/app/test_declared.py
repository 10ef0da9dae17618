"""Each call declares what it can answer: the errors of its kind, their headers, and every problem there is."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import httpx
import pytest

import app
from app.kit.problems import Problem

PROBLEM = "application/problem+json"
MADE_BY_THE_SERVER = {
    "not_found": "of an address that is none of the API's",
    "method_not_allowed": "of an address that does not take the method",
    "head_too_large": "before there is a request",
    "too_many_connections": "the same",
    "unknown_host": "the same",
}
"""Problems of no call in the document."""


@pytest.fixture(scope="module")
def document(application: tuple[Any, str]) -> dict[str, Any]:
    return dict(httpx.get(f"{application[1]}/openapi.json", trust_env=False, timeout=60).json())


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if path.startswith("/v1/"):
                yield f"{method} {path}", path, operation


def codes(operation: dict[str, Any]) -> set[str]:
    found = (response.get("content", {}).get(PROBLEM, {}) for response in operation["responses"].values())
    return {code for media in found for code in media.get("examples", ())}


def test_every_call_has_a_name_a_tag_a_line_and_a_text(document: dict[str, Any]) -> None:
    for name, _, operation in operations(document):
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", operation["operationId"]), name
        assert len(operation["tags"]) == 1, name
        assert 5 < len(operation["summary"]) < 80, name
        assert not operation["summary"].endswith("."), name
        assert len(operation["description"]) > 15, name


def test_every_call_declares_the_errors_of_its_kind(document: dict[str, Any]) -> None:
    for name, path, operation in operations(document):
        wanted = {"400", "401", "403", "422", "429", "500", "503"}
        wanted |= {"404"} if "{" in path else set()
        wanted |= {"408", "413"} if "requestBody" in operation else set()
        repeatable = any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", ()))
        wanted |= {"409"} if repeatable else set()
        left = wanted - set(operation["responses"])
        assert not left, f"{name} does not declare {sorted(left)}"
        body = operation.get("requestBody", {}).get("content", {})
        assert "415" in operation["responses"] or "application/json" not in body, name


def test_every_answer_declares_its_headers_and_its_body(document: dict[str, Any]) -> None:
    telling = {"201": "Location", "304": "ETag", "401": "WWW-Authenticate", "403": "WWW-Authenticate"}
    telling |= dict.fromkeys(("429", "503"), "Retry-After")
    for name, _, operation in operations(document):
        for status, response in operation["responses"].items():
            headers = response["headers"]
            assert "X-Request-Id" in headers, f"{name} {status}"
            if status in telling:
                assert telling[status] in headers, f"{name} {status}"
            if status >= "400":
                assert response["content"][PROBLEM]["examples"], f"{name} {status}"
            elif status in ("200", "201", "202", "206") and not name.startswith("head "):
                media = response["content"]
                assert all(each["schema"] for each in media.values()), f"{name} {status}"
                assert response["description"], f"{name} {status}"


def test_every_problem_that_there_is_is_declared_by_a_call(document: dict[str, Any]) -> None:
    """A problem that no call declares is one that a route has forgotten, or that nobody raises."""
    for found in walk_packages(app.__path__, "app."):
        if not found.name.endswith("__main__"):
            import_module(found.name)
    kinds, pending = set(), [Problem]
    while pending:
        kind = pending.pop()
        pending.extend(kind.__subclasses__())
        if kind.__module__.startswith("app."):
            kinds.add(kind.code)
    declared = {code for _, _, operation in operations(document) for code in codes(operation)}
    assert kinds - declared - set(MADE_BY_THE_SERVER) == set()


def test_a_route_declares_what_its_own_module_raises(document: dict[str, Any]) -> None:
    """What an endpoint raises by itself is named in the same file's `problems(…)`."""
    for path in sorted(Path(app.__path__[0]).rglob("*endpoints.py")):
        text = path.read_text()
        for raised in set(re.findall(r"raise ([A-Z]\w+)", text)) - {"Invalid", "NotFound"}:
            declared = re.findall(rf"problems\([^)]*\b{raised}\b|\b{raised},", text)
            assert declared, f"{path.name} raises {raised} and declares it nowhere"
