"""What callers are told is in the words of the API: no library, class, statement, path or trace is in it."""

import copy
import re
from collections.abc import Iterator
from typing import Any, Final, get_args

import httpx
import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter
from pydantic_core.core_schema import ErrorType

from app.auth.scopes import Scope
from app.kit.problems import Problem
from app.tables.states import ENDINGS
from secateur.spec.durations import Duration
from secateur.spec.words import OTHERWISE, words
from tests.app.bodies import calls_with_bodies
from tests.app.conftest import Inputs, MakeKey, client_of

INTERNAL: Final = re.compile(
    r"pydantic|sqlalchemy|psycopg|starlette|fastapi|celery|Traceback|\bSELECT\b|\bINSERT\b|Input should"
    r"|instance of|NoneType|<class|\bdict\b|tuple|0x[0-9a-f]{6}|/(app|srv|work|usr|home|tmp|root)/|\.py\b"
    r"|\b[A-Z]\w*(Error|Exception)\b|\b[A-Z][a-z]+([A-Z][a-z]+)+\b"
)
OURS: Final = re.compile(r"Retry-After|Idempotency-Key|If-Match|Content-Type|Content-Encoding")
WRONG: Final[tuple[Any, ...]] = (None, -1, 1.5, "x", "", [], {}, True, 10**30, [None], {"a": 1}, "a" * 500)


def is_internal(text: str) -> bool:
    return INTERNAL.search(OURS.sub("", text)) is not None


def changed(document: Any) -> Iterator[Any]:
    """The document with each of its places replaced by each wrong value."""
    yield from WRONG
    parts = document.items() if isinstance(document, dict) else enumerate(document)
    for key, inner in list(parts):
        for other in changed(inner) if isinstance(inner, dict | list) else WRONG:
            whole = copy.copy(document)
            whole[key] = other
            yield whole


@pytest.fixture
def bodies(inputs: Inputs) -> dict[str, dict[str, Any]]:
    rest = {"labels": {"a": "b"}, "limits": {"max_runtime": "1h"}, "gate": {"max_bwt": 1.0}}
    override = {"match": "*", "target": 0.4}
    job = inputs.body(sparsity={"target": 0.5, "pattern": "unstructured", "overrides": [override]}, **rest)
    job["domains"] = [{**job["domains"][0], "calibration": {"samples": 4, "sequence_length": 64}}]
    return {
        "POST /v1/plans": job,
        "POST /v1/models": {"name": "a", "source": {"type": "hub", "id": "a/b", "revision": "main"}},
        "POST /v1/datasets": {"name": "a", "hub": {"id": "a/b", "config": "c", "text_field": "text"}},
        "PATCH /v1/jobs/1": {"labels": {"a": "b"}, "priority": 1, "limits": {"max_runtime": "1h"}},
    }


def test_no_refusal_of_a_body_names_our_inside(api: httpx.Client, bodies: dict[str, dict[str, Any]]) -> None:
    told = set()
    for call, good in bodies.items():
        method, path = call.split()
        for body in changed(good):
            response = api.request(method, path, json=body)
            assert response.status_code < 500, (call, body, response.text)
            if response.status_code >= 400:
                problem = response.json()
                assert len(response.content) < 20_000
                told |= {problem["detail"], *(each["detail"] for each in problem["errors"])}
    assert len(told) > 50
    assert [text for text in told if is_internal(text) or OTHERWISE in text] == []


PLAUSIBLE: Final[dict[str, Any]] = {
    "name": "a",
    "scopes": ["jobs:read"],
    "expires_at": "2100-01-01T00:00:00Z",
    "url": "https://example.com/a",
    "events": ["transition"],
    "states": ["failed"],
    "labels": {"a": "b"},
    "token": "hf_abcdefghij",
    "share": 2,
    "quotas": {"queued_jobs": 5},
    "model_roots": ["a"],
    "disabled": False,
    "grace_seconds": 5,
}


@pytest.mark.slow
def test_no_call_breaks_at_a_wrong_value(
    application: tuple[FastAPI, str], service: str, make_key: MakeKey
) -> None:
    """Slow: each call that takes JSON, with a project's key and an operator's, and a wrong value at each place."""
    told, asked = set(), set()
    for scopes in ([each for each in Scope if each is not Scope.admin], [Scope.admin]):
        with client_of(service, make_key(scopes=scopes)) as client:
            project = client.get("/v1/whoami").json()["project"]
            own = project["id"] if isinstance(project, dict) else project
            for call in calls_with_bodies(application[0]):
                good = {name: value for name, value in PLAUSIBLE.items() if name in call.fields}
                for body in changed(good) if good else ():
                    path = call.path.replace("/projects/1", f"/projects/{own}")
                    response = client.request(call.method, path, json=body)
                    assert response.status_code < 500, (call, body, response.text)
                    asked.add(call.path)
                    if response.status_code >= 400:
                        told |= {response.json()["detail"]}
    assert len(asked) > 5
    assert [text for text in told if is_internal(text) or OTHERWISE in text] == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "content"),
    [
        ("GET", "/v1/jobs?created_after=yesterday", {}, b""),
        ("GET", "/v1/jobs?limit=x&state=x&label=x&cursor=x", {}, b""),
        ("GET", "/v1/jobs/1?wait=x&for=x", {}, b""),
        ("GET", "/v1/jobs/%2e%2e%2f", {}, b""),
        ("POST", "/v1/jobs", {"Content-Type": "application/json"}, b"{"),
        ("POST", "/v1/jobs", {"Content-Type": "application/json"}, b"\xff"),
        ("POST", "/v1/jobs", {"Content-Type": "application/json"}, b"9" * 5000),
        ("POST", "/v1/jobs", {"Content-Type": "application/json"}, b"[" * 5000),
        ("POST", "/v1/jobs", {"Content-Type": "application/json", "Idempotency-Key": "a" * 300}, b"{}"),
        ("POST", "/v1/jobs", {}, b"{}"),
        ("PATCH", "/v1/jobs", {}, b"{}"),
        ("GET", "/v1/nothing", {}, b""),
    ],
)
def test_no_refusal_of_a_request_names_our_inside(
    method: str, path: str, headers: dict[str, str], content: bytes, api: httpx.Client
) -> None:
    response = api.request(method, path, headers=headers, content=content)
    assert 400 <= response.status_code < 500
    problem = response.json()
    for text in (problem["detail"], problem["title"], *(each["detail"] for each in problem["errors"])):
        assert not is_internal(text), text


def patterns(document: Any) -> set[str]:
    if isinstance(document, dict):
        own = {document["pattern"]} if isinstance(document.get("pattern"), str) else set()
        return own.union(*map(patterns, document.values()))
    return set().union(*map(patterns, document)) if isinstance(document, list) else set()


def test_who_writes_a_string_in_a_wrong_form_is_told_the_right_one_not_a_regular_expression(
    api: httpx.Client,
) -> None:
    found = patterns(api.get("/openapi.json").json()) - patterns(TypeAdapter(Duration).json_schema())
    assert len(found) > 8
    assert [each for each in found if words("string_pattern_mismatch", {"pattern": each}, "") == OTHERWISE] == []
    source = {"type": "gguf", "path": "/models/a.gguf"}
    refused = api.post("/v1/models", json={"name": "a", "source": source}).json()
    assert "below a model root, without a slash in front" in refused["errors"][0]["detail"]


def test_every_kind_of_the_librarys_errors_has_words_of_ours() -> None:
    for kind in get_args(ErrorType):
        if kind not in ("value_error", "assertion_error"):
            assert not is_internal(words(kind, {}, "Input should be a valid dictionary or instance of JobCreate"))


def test_every_ending_and_title_is_in_words_of_ours() -> None:
    def kinds(base: type[Problem]) -> Iterator[type[Problem]]:
        for each in base.__subclasses__():
            yield each
            yield from kinds(each)

    texts = [each.message for each in ENDINGS.values()] + [each.title for each in kinds(Problem)]
    assert len(texts) > 40
    assert [text for text in texts if is_internal(text)] == []
