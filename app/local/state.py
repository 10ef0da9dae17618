"""The state folder of a local stack: what survives a restart, and the lock that keeps a second supervisor out.

lock            held by the supervisor and, inherited, by every child
stack.json      passwords, the keys' pepper, ports (0600)
key             the API key, once more alone for scripts (0600)
client.json     URL and key, where the command line finds them (0600)
postgres/ valkey/ store/ work/ models/ logs/
"""

import fcntl
import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from app.local.errors import StateError

LOCK_SECONDS: Final = 20.0
"""Seconds to wait for the children of a supervisor that was killed; they are on their way out."""


@dataclass
class Memory:
    """What a stack remembers of itself."""

    postgres_password: str = field(default_factory=lambda: secrets.token_hex(24))
    valkey_password: str = field(default_factory=lambda: secrets.token_hex(24))
    secret: str = field(default_factory=lambda: secrets.token_hex(32))
    """Pepper of the API keys; with another one every key would be void."""
    ports: dict[str, int] = field(default_factory=dict)


class StateFolder:
    """A private folder, and exclusive use of it between `lock()` and `unlock()`."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock: int | None = None

    @property
    def key_file(self) -> Path:
        return self.path / "key"

    @property
    def client_file(self) -> Path:
        return self.path / "client.json"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def lock_handle(self) -> int:
        """Children inherit it, so that the lock is free only when the last of them is gone."""
        if self._lock is None:
            raise StateError("the state folder is not locked")
        return self._lock

    def lock(self) -> None:
        """Make the folder and take it. Raises StateError when another supervisor has it."""
        for folder in (self.path, self.models, self.logs, self.path / "store", self.path / "work"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + LOCK_SECONDS
        try:
            while not _try_lock(handle):
                self._refuse_if_held(handle, deadline)
                time.sleep(0.1)
        except BaseException:
            os.close(handle)
            raise
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        self._lock = handle

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remember(self) -> Memory:
        """What was saved, or a new memory with new secrets."""
        try:
            return Memory(**json.loads((self.path / "stack.json").read_text()))
        except FileNotFoundError:
            return Memory()
        except (ValueError, TypeError) as error:
            raise StateError(f"{self.path / 'stack.json'} is damaged: {error}") from error

    def save(self, memory: Memory) -> None:
        write_private(self.path / "stack.json", json.dumps(asdict(memory), indent=2) + "\n")

    def _refuse_if_held(self, handle: int, deadline: float) -> None:
        owner = os.pread(handle, 20, 0).decode(errors="replace").strip()
        if owner.isdecimal() and _alive(int(owner)):
            raise StateError(f"a stack is already running in {self.path} (process {owner})")
        if time.monotonic() > deadline:
            raise StateError(f"processes of an earlier stack still use {self.path}")


def write_private(path: Path, text: str) -> None:
    """Replace a file whole, readable by its owner only."""
    beside = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        beside.unlink()
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
