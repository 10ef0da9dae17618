"""`python -m app.export_answers`: the types of the API's answers in the Python client, of the OpenAPI document."""

import keyword
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from app.export_openapi import document

TARGET: Final = Path(__file__).parents[1] / "secateur" / "answers.py"
HEADER: Final = '''\
"""What the API answers, as types. Made of the OpenAPI document by `python -m app.export_answers`; not edited.

Answers are plain dictionaries as the server sent them. What a newer server adds is in them, if in no type.
The document, as `/docs` of a server shows it, says what each field means.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

'''
PLAIN: Final = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
UNWANTED: Final = ("LiveRead", "ReadyRead")
"""For whoever runs the service."""


def source(openapi: dict[str, Any]) -> str:
    """The module's text: a type for every schema that an answer or an event has."""
    schemas: dict[str, Any] = openapi["components"]["schemas"]
    names = sorted(_reachable(openapi) - {*UNWANTED})
    records = [name for name in names if "properties" in schemas[name]]
    others = [name for name in names if name not in records]
    parts = [_record(name, schemas[name]) for name in records]
    parts += [_alias(name, schemas[name]) for name in sorted(others, key=lambda name: "oneOf" in schemas[name])]
    return HEADER + "\n\n".join(parts)


def formatted(text: str) -> str:
    """As the repository's other files are."""
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def _reachable(openapi: dict[str, Any]) -> set[str]:
    """Names of the schemas of JSON answers to calls that went well, of events, and of what those are made of."""
    schemas, found = openapi["components"]["schemas"], set[str]()
    waiting = ["EventRead"]
    for path in openapi["paths"].values():
        for operation in path.values():
            answers = (answer for status, answer in operation["responses"].items() if status.startswith("2"))
            for answer in answers:
                for name in _references(answer.get("content", {})):
                    waiting += _references(schemas[name]) if name.startswith("Page_") else [name]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _references(schemas[name])
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(name := schema.get("$ref"), str):
            yield name.rpartition("/")[2]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _record(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    fields = {
        field: _type(value) if field in required else f"NotRequired[{_type(value)}]"
        for field, value in schema["properties"].items()
    }
    name = _name(name)
    if any(keyword.iskeyword(field) for field in fields):
        return f"{name} = TypedDict({name!r}, {fields!r})\n"
    lines = (f"    {field}: {type}\n" for field, type in fields.items())
    return f"class {name}(TypedDict):\n{''.join(lines) or '    pass'}"


def _alias(name: str, schema: dict[str, Any]) -> str:
    return f"{_name(name)}: TypeAlias = {_type(schema)}\n"


def _name(schema: str) -> str:
    return schema.replace("_", "")


def _type(schema: dict[str, Any]) -> str:
    """A schema as a type expression."""
    if isinstance(name := schema.get("$ref"), str):
        return _name(name.rpartition("/")[2])
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " | ".join(dict.fromkeys(_type(each) for each in choices))
    if "const" in schema or "enum" in schema:
        return f"Literal[{', '.join(repr(each) for each in schema.get('enum', [schema.get('const')]))}]"
    kind = schema.get("type")
    if kind == "array":
        return f"list[{_type(schema.get('items', {}))}]"
    if kind == "object":
        more = schema.get("additionalProperties")
        return f"dict[str, {_type(more) if isinstance(more, dict) else 'Any'}]"
    return PLAIN[kind] if isinstance(kind, str) else "Any"


if __name__ == "__main__":
    TARGET.write_text(formatted(source(document())), "utf-8")
