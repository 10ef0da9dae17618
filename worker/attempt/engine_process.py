"""The engine as a child process, which speaks in messages."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from app.kit.tracing import traceparent
from app.settings import Settings
from secateur.spec.records.pipe import Ended, Message, read_message
from secateur.spec.request import HIDDEN_PART
from worker.isolation.child import END, Child
from worker.isolation.limits import Confinement, Limits, host_memory_bytes

ENGINE_SHARE: Final = 0.9
"""Of the machine's memory."""
# -P: the working folder, where the engine writes, is not searched for modules.
COMMAND: Final = (sys.executable, "-P", "-m", "worker.engine")


class EngineProcess(Child):
    """See `Child`."""

    def __init__(
        self,
        workspace: Path,
        threads: int,
        command: Sequence[str] = COMMAND,
        confinement: Confinement | None = None,
    ) -> None:
        # By the name that OpenTelemetry gives it: a profiler in the engine can say which trace it belongs to.
        traced = {name.upper(): value for name, value in traceparent().items()}
        super().__init__(workspace, threads, command, confinement, traced)

    def hear(self, seconds: float) -> Message | Ended | None:
        """The next message, Ended after the last one, None when there is none within the time.

        Raises ValueError for a line that is no message.
        """
        line = self.hear_line(seconds)
        if line is None:
            return None
        return Ended() if line == END else read_message(line)


def confinement(request: dict[str, Any], workspace: Path, limits: Limits) -> Confinement:
    """Of an engine with that request: it reads the files that the request names, and writes its workspace."""
    texts = (text["path"] for text in request.get("texts", {}).values())
    named = (request.get("model"), request.get("inspect"), request.get("task_data"), *texts)
    readable = tuple(path for path in named if isinstance(path, str) and path.startswith("/"))
    return Confinement(readable, (str(workspace),), limits)


def engine_limits(settings: Settings) -> Limits:
    """Of a job's engine, which may fill the machine but not bring it down: only its memory."""
    return Limits(memory_bytes=engine_memory(settings))


def engine_memory(settings: Settings) -> int:
    """Bytes that a job's engine may hold."""
    return settings.engine_memory_bytes or int(ENGINE_SHARE * host_memory_bytes())


def hidden_bytes(settings: Settings) -> int:
    """Of these, the part for hidden states."""
    return engine_memory(settings) // HIDDEN_PART if settings.hidden_bytes is None else settings.hidden_bytes
