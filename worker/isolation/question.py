"""One question to a module of ours, answered in an isolated child that reads a stranger's files."""

import json
import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from worker.isolation.child import END, Child
from worker.isolation.limits import Confinement, LimitReached, Limits
from worker.model_files.errors import IntakeError

COMMAND: Final = (sys.executable, "-P", "-m", "worker.isolation")
HEAR_SECONDS: Final = 0.2
SIGNALS: Final = {signal.SIGXCPU: "cpu_time", signal.SIGXFSZ: "file_size"}
NO_MEMORY: Final = ("memory allocation of", "bad_alloc", "allocate memory", "memoryerror", "out of memory")
"""What compiled code prints, in lower case, before it gives up for want of memory."""

_log = logging.getLogger(__name__)


def run_isolated(
    module: str,
    request: dict[str, Any],
    *,
    what: str,
    workspace: Path,
    readable: Sequence[Path] = (),
    limits: Limits,
    threads: int = 1,
    field: str | None = None,
    check: Callable[[], None] = lambda: None,
    hear: Callable[[dict[str, Any]], None] = lambda message: None,
) -> dict[str, Any]:
    """What `answer(request, tell)` of the module returns, in a child process without keys, network or other files.

    module: a constant of ours, never of a request. request, answer: JSON objects. what: is read, in messages: `the
    GGUF file`. workspace: an existing folder, which the child may write and lives in. readable: files and folders.
    field: JSON pointer that errors get which name none. check: called often; raises when the work must stop. hear:
    gets each object that the child tells on its way, which is also its sign of life (`Limits.silent_seconds`).

    Raises IntakeError for what the module refuses, LimitReached (an IntakeError) when the child died at a limit,
    RuntimeError when it failed otherwise.
    """
    confinement = Confinement(tuple(map(str, readable)), (str(workspace),), limits)
    child = Child(workspace, threads, (*COMMAND, module), confinement)
    said: deque[str] = deque(maxlen=20)
    last: dict[str, Any] = {}
    try:
        child.listen(said.append)
        child.say(request)
        for message in _messages(child, limits, check):
            if message["type"] == "told":
                hear(message["told"])
            else:
                last = message
    except TimeoutError:
        raise LimitReached("time", what, limits, field) from None
    finally:
        child.kill()
        code = child.finish(0)
    match last.get("type"):
        case "answer":
            return dict(last["answer"])
        case "refused":
            raise IntakeError(last["code"], last["message"], last["field"] or field)
    if limit := died_of(child, code, last.get("limit"), said):
        _log.info("%s: the child that read %s died at its limit of %s", module, what, limit)
        raise LimitReached(limit, what, limits, field)
    _log.error("%s failed (%d): %s", module, code, last.get("detail") or list(said))
    raise RuntimeError(f"the child of {module} ended with {code} and no answer")


def died_of(child: Child, code: int, told: str | None, said: Sequence[str]) -> str | None:
    """The limit that ended a child, if one did. code: as it ended. told: its own word. said: its last lines."""
    if child.outgrown:
        return "memory"
    if told is not None:
        return told
    if code < 0 and -code in SIGNALS:
        return SIGNALS[signal.Signals(-code)]
    if code != 0 and any(words in line.lower() for line in said for words in NO_MEMORY):
        return "memory"
    return None


def _messages(child: Child, limits: Limits, check: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Raises TimeoutError for a child that is silent for too long."""
    heard = time.monotonic()
    while (line := child.hear_line(HEAR_SECONDS)) != END:
        check()
        if line is not None:
            heard = time.monotonic()
            yield json.loads(line)
        elif limits.silent_seconds is not None and time.monotonic() - heard > limits.silent_seconds:
            raise TimeoutError
