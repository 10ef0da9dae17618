"""The licence of a model, as the front matter of its card tells hubs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

CARD: Final = "README.md"
CARD_BYTES: Final = 2**20
"""A longer card is not fetched."""
HEAD_BYTES: Final = 2**16
"""What is read of it."""

GGUF_KEYS: Final = {
    "license": "general.license",
    "license_name": "general.license.name",
    "license_link": "general.license.link",
}
"""Where a GGUF file has what a card's front matter says."""

_FENCE: Final = "---"
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,99}", re.ASCII)
_LONGEST: Final = {"license_name": 200, "license_link": 2000}

Licence = dict[str, str | None]
"""`id`, the hub's identifier; `name` and `link` where the card has them, as of a licence that is `other`."""


def read_licence(path: Path) -> Licence | None:
    """None of a card that names no licence. Raises ValueError, with what is wrong, for one that cannot be read."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    lines = head.decode("utf-8", errors="replace").lstrip().splitlines()
    if not lines or lines[0].rstrip() != _FENCE:
        return None
    end = next((number for number, line in enumerate(lines) if number and line.rstrip() == _FENCE), None)
    if end is None:
        if len(head) == HEAD_BYTES:
            raise ValueError(f"its front matter is longer than {HEAD_BYTES} bytes")
        return None
    try:
        found = yaml.load("\n".join(lines[1:end]), yaml.BaseLoader)  # noqa: S506 - it makes texts, lists and mappings alone
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError("its front matter is no YAML") from error
    said = found.get("license") if isinstance(found, dict) else None
    if not said:
        return None
    identifier = said[0] if isinstance(said, list) and len(said) == 1 else said
    if not isinstance(identifier, str) or not _IDENTIFIER.fullmatch(identifier):
        raise ValueError("`license` is not one identifier")
    name, link = (_text(found.get(field), field) for field in _LONGEST)
    return {"id": identifier, "name": name, "link": link}


def write_card(metadata: Mapping[str, object], path: Path) -> None:
    """The licence that a GGUF file names, as a card; none where it names none."""
    said = {field: str(metadata[key]) for field, key in GGUF_KEYS.items() if metadata.get(key)}
    if said:
        path.write_text(f"{_FENCE}\n{yaml.safe_dump(said)}{_FENCE}\n", "utf-8")


def _text(value: object, field: str) -> str | None:
    if not value:
        return None
    if not isinstance(value, str) or len(value) > _LONGEST[field] or not value.isprintable():
        raise ValueError(f"`{field}` is not one short line")
    return value
