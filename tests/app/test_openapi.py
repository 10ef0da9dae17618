import re
from typing import Any

import httpx
import pytest

METHODS = {"get", "head", "post", "patch", "delete"}


@pytest.fixture
def document(api: httpx.Client) -> dict[str, Any]:
    return dict(api.get("/openapi.json").json())


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (path, each) for path, item in document["paths"].items() for name, each in item.items() if name in METHODS
    ]


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(inner) for inner in value.values()))
    return set().union(*(references(inner) for inner in value)) if isinstance(value, list) else set()


def test_the_document_is_whole(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    for kind in document["components"].values():
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in kind)
    assert "HTTPValidationError" not in schemas
    assert schemas["JobCreate"]["examples"]
    assert schemas["DatasetCreate"]["examples"]


def test_every_operation_is_named_described_and_guarded(document: dict[str, Any]) -> None:
    names = [each["operationId"] for _, each in operations(document)]
    assert len(set(names)) == len(names)
    for path, each in operations(document):
        assert each["summary"]
        assert each["description"]
        assert bool(each.get("security")) == path.startswith("/v1/"), path


def test_every_call_documents_its_problems(document: dict[str, Any]) -> None:
    for path, each in operations(document):
        if not path.startswith("/v1/"):
            continue
        expected = {"400", "401", "403", "422", "500", "503"} | ({"404"} if "{id}" in path else set())
        assert expected <= set(each["responses"]), path
        for status, response in each["responses"].items():
            if status < "400":
                continue
            content = response["content"]["application/problem+json"]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            for code, example in content["examples"].items():
                assert (example["value"]["code"], example["value"]["status"]) == (code, int(status))


def test_the_upload_documents_its_bodies(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/datasets/upload"]["post"]["requestBody"]["content"]
    assert content == {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    assert list(document["paths"]["/v1/datasets"]["post"]["requestBody"]["content"]) == ["application/json"]


def test_methods_come_from_the_spec(api: httpx.Client) -> None:
    found = {row["name"]: row for row in api.get("/v1/methods").json()["data"]}
    assert set(found) == {"copal", "auto", "admm", "alps", "sparsegpt", "wanda", "magnitude"}
    parameters = {each["name"]: each for each in found["copal"]["parameters"]}
    assert parameters["reading"]["default"] == "own_terms"
    assert parameters["reading"]["schema"]["enum"] == ["own_terms", "token", "sample", "dataset", "fisher"]
    assert parameters["admm.iterations"]["default"] == 20
    assert parameters["mode"]["description"]
    assert {"alps.rho", "alps.max_steps"} <= {each["name"] for each in found["alps"]["parameters"]}
    for row in found.values():
        assert row["description"]
        assert all(each["description"] and each["schema"] for each in row["parameters"])
