"""Where the server is and which key to use: options, environment, `secateur login`, or the local stack."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from secateur.errors import SecateurError


@dataclass(frozen=True)
class Config:
    """A server and a key for it."""

    url: str
    key: str


def find_config(url: str | None, key: str | None, state: Path | None = None) -> Config:
    """Options first, then SECATEUR_URL and SECATEUR_API_KEY, then what `secateur login` stored, then the local
    stack; a state folder that is named (`state` or SECATEUR_STATE) goes before what was stored.

    A stored key and the local stack's are each used for their own server only, never sent to another.
    Raises SecateurError that tells how to name a server.
    """
    url = url or os.environ.get("SECATEUR_URL")
    key = key or os.environ.get("SECATEUR_API_KEY")
    if url and key:
        return Config(url, key)
    local, stored = _read(local_file(state or state_folder())), _read(login_file())
    named = state is not None or os.environ.get("SECATEUR_STATE")
    for known in (local, stored) if named else (stored, local):
        if known is not None and (url is None or _server(url) == _server(known.url)):
            return Config(known.url, key or known.key)
    missing = (
        "no API key: give --key or set SECATEUR_API_KEY" if url else "no server: give --url or set SECATEUR_URL"
    )
    raise SecateurError(f"{missing}, store both with `secateur login`, or start a local stack with `secateur up`")


def state_folder() -> Path:
    """The local stack's folder: $SECATEUR_STATE or the user's data folder."""
    chosen = os.environ.get("SECATEUR_STATE")
    return Path(chosen) if chosen else Path.home() / ".local" / "share" / "secateur"


def local_file(state: Path) -> Path:
    """Where the local stack says how it is reached."""
    return state / "client.json"


def login_file() -> Path:
    """Where `secateur login` keeps a server and its key: in $XDG_CONFIG_HOME or ~/.config."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "secateur" / "login.json"


def store_login(config: Config) -> Path:
    """Keep a server and its key, for this user's eyes alone; what was kept before is replaced as a whole."""
    path = login_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump({"url": config.url, "key": config.key}, file)
    part.replace(path)
    return path


def forget_login() -> bool:
    """Whether there was one."""
    try:
        login_file().unlink()
    except FileNotFoundError:
        return False
    return True


def _server(url: str) -> str:
    """One text for every way to write the same address: in small letters, without a usual port or a last slash."""
    try:
        return str(httpx.URL(urlsplit(url.rstrip("/")).geturl()))
    except (httpx.InvalidURL, ValueError):
        return url


def _read(path: Path) -> Config | None:
    try:
        saved = json.loads(path.read_text())
        return Config(str(saved["url"]), str(saved["key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
