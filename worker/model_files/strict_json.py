"""JSON from strangers: bounded, without duplicate keys, NaN or absurd depth."""

import json
from pathlib import Path
from typing import Any, NoReturn

from worker.model_files.errors import IntakeError


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`. Raises IntakeError(invalid_json); `what` names the source for the user."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise IntakeError("invalid_json", f"{what} is not strict JSON ({_reason(error)}).") from error
    if not isinstance(value, dict):
        raise IntakeError("invalid_json", f"{what} must hold one JSON object.")
    return value


def read_object(path: Path, what: str, limit: int) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise IntakeError("file_too_large", f"{what} is larger than {limit} bytes.")
    return parse_object(data, what)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)
