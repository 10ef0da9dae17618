"""The page of every call, as tables made of the OpenAPI document."""

import re
from collections.abc import Iterator
from typing import Any

Document = dict[str, Any]


def page(document: Document) -> str:
    """Markdown: the calls by their tags, then every schema that they name."""
    return "\n".join([*_head(document), *_calls(document), *_schemas(document)]) + "\n"


def _head(document: Document) -> Iterator[str]:
    yield "# Every call"
    yield ""
    yield (
        "Made of the OpenAPI document, which a running service has at `/openapi.json`, "
        "and this site as [openapi.json](openapi.json). [How calls work together](api.md) is a page of its own."
    )


def _calls(document: Document) -> Iterator[str]:
    tags: dict[str, list[tuple[str, str, Document]]] = {}
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            tags.setdefault(call.get("tags", ["others"])[0], []).append((method, path, call))
    for tag, calls in tags.items():
        yield f"\n## {tag.capitalize()}\n"
        for method, path, call in calls:
            yield from _call(method, path, call)


def _call(method: str, path: str, call: Document) -> Iterator[str]:
    yield f"\n### {call['summary']} {{ #{call['operationId']} }}\n"
    yield f"`{method.upper()} {path}`\n"
    yield f"{call.get('description', '')}\n"
    if "parameters" in call:
        rows = (
            (f"`{each['name']}`", each["in"], _type(each["schema"]), _required(each), each.get("description", ""))
            for each in call["parameters"]
        )
        yield from _table(("parameter", "in", "type", "", "meaning"), rows)
    bodies = call.get("requestBody", {}).get("content", {})
    for media, content in bodies.items():
        yield f"\nBody: `{media}`, {_type(content['schema'])}\n"
    answers = (
        (status, ", ".join(_contents(answer)), answer["description"])
        for status, answer in call["responses"].items()
    )
    yield from _table(("answer", "is", "meaning"), answers)


def _contents(answer: Document) -> Iterator[str]:
    for media, content in answer.get("content", {}).items():
        yield _type(content["schema"]) if "schema" in content else f"`{media}`"


def _schemas(document: Document) -> Iterator[str]:
    yield "\n## Schemas\n"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield f"\n### {name} {{ #schema-{name.lower()} }}\n"
        yield f"{schema.get('description', '')}\n"
        needed = schema.get("required", ())
        if "properties" in schema:
            rows = (
                (f"`{field}`", _type(part), _value(part, field in needed), part.get("description", ""))
                for field, part in schema["properties"].items()
            )
            yield from _table(("field", "type", "", "meaning"), rows)
        else:
            yield f"{_type(schema)}\n"


def _type(schema: Any) -> str:
    """What a value is, in a few words; other schemas as links."""
    if not isinstance(schema, dict) or not schema:
        return "any"
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#schema-{name.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(map(_type, schema[several])))
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items'))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return f"{schema.get('type', 'any')}{_bounds(schema)}"


def _bounds(schema: Document) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    said = [f"{sign} {schema[name]:.15g}" for name, sign in signs.items() if name in schema]
    return f" {', '.join(said)}" if said else ""


def _required(parameter: Document) -> str:
    return _value(parameter["schema"], bool(parameter.get("required")))


def _value(schema: Document, needed: bool) -> str:
    if needed:
        return "required"
    default = schema.get("default")
    return "" if default in (None, "", [], {}) or isinstance(default, dict) else f"default `{default}`"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"
    yield ""


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", r"\|")
