"""What a child of the tests is asked to do: `worker.isolation` imports this module in it."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.model_files.errors import IntakeError


def answer(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    done: Any = globals()[request["do"]](request)
    tell({"did": request["do"]})
    return {"done": done}


def hold(_: dict[str, Any]) -> None:
    """Memory in small pieces."""
    held = []
    while True:
        held.append(bytearray(2**20))


def reserve(_: dict[str, Any]) -> None:
    """All at once."""
    bytearray(2**40)


def abort(_: dict[str, Any]) -> None:
    """As compiled code ends that gets no memory."""
    os.write(2, b"memory allocation of 99 bytes failed\n")
    os.abort()


def crash(_: dict[str, Any]) -> None:
    os.abort()


def compute(_: dict[str, Any]) -> None:
    while True:
        pass


def wait(_: dict[str, Any]) -> None:
    time.sleep(600)


def write(_: dict[str, Any]) -> None:
    with open("large", "wb") as file:
        while True:
            file.write(bytes(2**20))


def refuse(_: dict[str, Any]) -> None:
    raise IntakeError("bad", "It is bad.")


def fail(_: dict[str, Any]) -> None:
    raise LookupError("/a/secret/path")


def look(request: dict[str, Any]) -> dict[str, str]:
    """What of the world outside is within reach."""
    tried = {
        "given": lambda: Path(request["given"]).read_text(),
        "linked": lambda: Path(request["linked"]).read_text(),
        "other": lambda: Path(request["other"]).read_text(),
        "listed": lambda: os.listdir(Path(request["other"]).parent),
        "changed": lambda: Path(request["given"]).write_text("changed"),
        "made": lambda: Path(request["other"] + ".new").write_text("new"),
        "own": lambda: Path("mine").write_text("mine"),
        "connect": lambda: socket.create_connection(("127.0.0.1", request["port"]), timeout=5).close(),
    }
    return {name: _try(call) for name, call in tried.items()}


def names(_: dict[str, Any]) -> list[str]:
    return sorted(os.environ)


def _try(call: Callable[[], object]) -> str:
    try:
        call()
    except OSError:
        return "denied"
    return "done"
