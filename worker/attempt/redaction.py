"""Text that leaves the worker: without its paths and secrets, without control characters, of bounded length."""

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from app.kit.redaction import redact
from worker.isolation.environment import SOURCE_ROOT

LINE_LENGTH: Final = 2_000

_ESCAPES: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


class Redactor:
    """Replaces known folders by names; the longest one first."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """folders: what stands for them → the folders."""
        known = {
            **folders,
            "<code>": SOURCE_ROOT,
            "<python>": Path(sys.prefix),
            "<base>": Path(sys.base_prefix),
            "<temporary>": Path(tempfile.gettempdir()),
            "<home>": Path.home(),
        }
        pairs = {str(form): name for name, path in known.items() for form in (path, path.resolve())}
        self._pairs = sorted(
            ((path, name) for path, name in pairs.items() if path != "/"), key=lambda pair: -len(pair[0])
        )

    def __call__(self, text: str) -> str:
        """One line, fit for the database and for a stranger's eyes."""
        for path, name in self._pairs:
            text = text.replace(path, name)
        text = _CONTROL.sub(" ", _ESCAPES.sub("", redact(text))).replace("\n", " ⏎ ")
        return text if len(text) <= LINE_LENGTH else f"{text[:LINE_LENGTH]} …"
