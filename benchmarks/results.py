"""Rows that have been measured, one JSON file each, found again by everything that determines them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from worker.pruning.state.atomic import write_json


class Results:
    """A folder of rows; a run that was broken off goes on where it stopped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The row measured under an equal key."""
        path = self._path(key)
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text())["result"]
        return found

    def keep(self, key: dict[str, Any], result: dict[str, Any]) -> None:
        write_json(self._path(key), {"key": key, "result": result})

    def _path(self, key: dict[str, Any]) -> Path:
        name = "".join(c if c.isalnum() or c in "-+@" else "_" for c in str(key["row"]))
        return self._folder / f"{name}-{key_digest(key)}.json"


def key_digest(key: dict[str, Any]) -> str:
    """Short, and the same for equal keys only."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
