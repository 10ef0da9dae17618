"""What every list does with its parameters: a cursor is of one list and its filters, and a choice is one of the
choices."""

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.app.conftest import Inputs

FREE = {
    "project",
    "key",
    "object_id",
    "action",
    "outcome",
    "label",
    "model",
    "continues",
    "lineage",
    "domain",
    "matrix",
    "cursor",
    "name",
    "text_field",
}
"""Parameters whose text is the caller's (names, ids, globs), or a log's, which remembers what there is no more."""


def queries(app: FastAPI) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Method, path (parameters filled in), and each query parameter with its schema."""
    document = app.openapi()

    def whole(schema: dict[str, Any]) -> dict[str, Any]:
        options = schema.get("anyOf", [schema])
        schema = next(each for each in options if each.get("type") != "null")
        schema = schema.get("items", schema)
        name = schema.get("$ref", "").rpartition("/")[2]
        return dict(document["components"]["schemas"][name]) if name else schema

    return [
        (method.upper(), re.sub(r"\{\w+\}", "1", path), each["name"], whole(each["schema"]))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for each in operation.get("parameters", ())
        if each["in"] == "query"
    ]


def test_a_choice_that_there_is_not_is_refused_with_those_there_are(
    application: tuple[FastAPI, str], api: httpx.Client
) -> None:
    found = [
        (method, path, name, schema) for method, path, name, schema in queries(application[0]) if "enum" in schema
    ]
    assert {"state", "method", "basis", "part"} <= {name for _, _, name, _ in found}
    for method, path, name, schema in found:
        response = api.request(method, path, params={name: "bogus"})
        assert response.status_code == 422, (path, name, response.text)
        error = next(each for each in response.json()["errors"] if each["parameter"] == name)
        assert all(choice in error["detail"] for choice in schema["enum"]), error


def test_every_other_text_is_the_callers_own(application: tuple[FastAPI, str]) -> None:
    texts = {
        name
        for _, _, name, schema in queries(application[0])
        if schema.get("type") == "string" and not {"enum", "format"} & schema.keys()
    }
    assert texts <= FREE, "a list of choices should be an enum"


def test_what_counts_once_is_not_given_twice(api: httpx.Client) -> None:
    for query in ("method=copal&method=admm", "limit=1&limit=2", "cursor=a&cursor=b"):
        response = api.get(f"/v1/jobs?{query}")
        assert response.status_code == 422
        assert response.json()["errors"][0]["detail"] == "is given more than once"
    assert api.get("/v1/jobs?state=queued&state=failed&label=a=b&label=c=d").status_code == 200


@pytest.fixture
def cursor(api: httpx.Client, inputs: Inputs) -> str:
    """Of the list of jobs, without a filter."""
    for _ in range(3):
        assert api.post("/v1/jobs", json=inputs.body()).status_code == 201
    return str(api.get("/v1/jobs", params={"limit": 1}).json()["next_cursor"])


def test_a_cursor_goes_on_where_its_list_was(api: httpx.Client, cursor: str) -> None:
    assert len(api.get("/v1/jobs", params={"limit": 2, "cursor": cursor}).json()["data"]) == 2
    filtered = {"state": ["queued", "failed"], "method": "copal", "limit": 1}
    following = api.get("/v1/jobs", params=filtered).json()["next_cursor"]
    again = {**filtered, "state": ["failed", "queued"], "limit": 2, "cursor": following}
    assert len(api.get("/v1/jobs", params=again).json()["data"]) == 2


@pytest.mark.parametrize(
    ("path", "filters"),
    [
        ("/v1/jobs", {"state": "queued"}),
        ("/v1/jobs", {"label": "a=b"}),
        ("/v1/jobs", {"method": "copal"}),
        ("/v1/datasets", {}),
        ("/v1/models", {}),
    ],
)
def test_a_cursor_of_another_list_or_filter_is_refused_by_name(
    path: str, filters: dict[str, str], api: httpx.Client, cursor: str
) -> None:
    response = api.get(path, params={**filters, "cursor": cursor})
    assert response.status_code == 422
    assert response.json()["errors"] == [
        {
            "pointer": None,
            "parameter": "cursor",
            "detail": "is of another list or of other filters; leave it out to begin anew",
        }
    ]
