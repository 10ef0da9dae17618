"""Where the server is and which key to use: options, environment, or the local stack's state folder."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from secateur.errors import SecateurError


@dataclass(frozen=True)
class Config:
    """A server and a key for it."""

    url: str
    key: str


def find_config(url: str | None, key: str | None, state: Path | None = None) -> Config:
    """Options first, then SECATEUR_URL and SECATEUR_API_KEY, then the local stack.

    The local stack's key is used for the local stack only, never sent to another server.
    Raises SecateurError that tells how to name a server.
    """
    url = url or os.environ.get("SECATEUR_URL")
    key = key or os.environ.get("SECATEUR_API_KEY")
    if url and key:
        return Config(url, key)
    local = _local_stack(state or state_folder())
    if local is not None and url in (None, local.url):
        return Config(local.url, key or local.key)
    missing = (
        "no API key: give --key or set SECATEUR_API_KEY" if url else "no server: give --url or set SECATEUR_URL"
    )
    raise SecateurError(f"{missing}, or start a local stack with `secateur up`")


def state_folder() -> Path:
    """The local stack's folder: $SECATEUR_STATE or the user's data folder."""
    chosen = os.environ.get("SECATEUR_STATE")
    return Path(chosen) if chosen else Path.home() / ".local" / "share" / "secateur"


def _local_stack(state: Path) -> Config | None:
    try:
        saved = json.loads((state / "client.json").read_text())
        return Config(str(saved["url"]), str(saved["key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
