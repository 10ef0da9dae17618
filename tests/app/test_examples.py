"""Every example in the OpenAPI document is valid by the schema that it stands beside."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema_rs
import pytest


@pytest.fixture(scope="module")
def document(application: tuple[Any, str]) -> dict[str, Any]:
    return dict(httpx.get(f"{application[1]}/openapi.json", trust_env=False, timeout=60).json())


def examples(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(where the schema is, an example of it) for media types, parameters, headers and schemas."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from examples(item, (*path, str(number)))
    if not isinstance(value, dict):
        return
    beside = (*path, "schema") if "schema" in value else path
    found = value.get("examples")
    if isinstance(found, list):
        yield from ((beside, example) for example in found)
    elif isinstance(found, dict) and path[-1:] != ("properties",):
        yield from ((beside, example["value"]) for example in found.values())
    if "example" in value and path[-1:] != ("properties",):
        yield beside, value["example"]
    for name, inner in value.items():
        if name not in ("example", "examples", "default", "enum", "const"):
            yield from examples(inner, (*path, name))


def test_every_example_is_valid_by_its_own_schema(document: dict[str, Any]) -> None:
    found = list(examples(document))
    assert len(found) > 50
    registry = jsonschema_rs.Registry([("urn:document", document)])  # read once, for all of them
    for path, example in found:
        pointer = "/".join(quote(part.replace("~", "~0").replace("/", "~1"), safe="~") for part in path)
        schema = {"$ref": f"urn:document#/{pointer}"}
        validator = jsonschema_rs.Draft202012Validator(schema, registry=registry, validate_formats=True)
        errors = [error.message[:300] for error in validator.iter_errors(example)]
        assert not errors, f"{pointer}: {example}: {errors}"


def test_what_is_taken_and_made_has_an_example(document: dict[str, Any]) -> None:
    """Of every body of a request, so that a reader sees one."""
    seen = {path for path, _ in examples(document)}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for kind, media in operation.get("requestBody", {}).get("content", {}).items():
                if media["schema"].get("format") == "binary":
                    continue
                names = [
                    each["$ref"] for each in (media["schema"], *media["schema"].get("oneOf", ())) if "$ref" in each
                ]
                places = [("components", "schemas", name.rpartition("/")[2]) for name in names]
                places.append(("paths", path, method, "requestBody", "content", kind, "schema"))
                assert any(place in seen for place in places), f"{method} {path}: {kind} has no example"
