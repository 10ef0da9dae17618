"""Every call that takes a body, as the OpenAPI document has them, and a caller that speaks by hand."""

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI


@dataclass(frozen=True)
class Call:
    """method and path (its parameters filled in), and the type of the body that it wants."""

    method: str
    path: str
    type: str
    fields: frozenset[str] = frozenset()
    """Names in the JSON object that it takes."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def calls_with_bodies(app: FastAPI) -> list[Call]:
    """One for each type of each call's body."""
    found = []
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            types = operation.get("requestBody", {}).get("content", {}) if isinstance(operation, dict) else {}
            filled = re.sub(r"\{\w+\}", "1", path)
            found += [Call(method.upper(), filled, type, _fields(app, types[type])) for type in types]
    return found


def _fields(app: FastAPI, content: dict[str, Any]) -> frozenset[str]:
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return frozenset(app.openapi()["components"]["schemas"].get(name, {}).get("properties", ()))


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """A connection to the service."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=30) as connection:
        yield connection


def head(method: str, path: str, headers: Mapping[str, Any]) -> bytes:
    """A request's head."""
    lines = [f"{method} {path} HTTP/1.1", "Host: tests", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def status_of(connection: socket.socket) -> int:
    """Status of the next answer, also of an interim one."""
    with connection.makefile("rb") as answer:
        return int(answer.readline().split()[1])
