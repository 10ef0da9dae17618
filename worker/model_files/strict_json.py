"""JSON objects in the files of strangers: bounded, and read by the letter."""

import json
from pathlib import Path
from typing import Any

from secateur import strict_json
from worker.model_files.errors import IntakeError


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`. Raises IntakeError(invalid_json); `what` names the source for the user."""
    try:
        value = strict_json.loads(data)
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


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)
