"""The engine as a child process, which speaks in messages."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from secateur.spec.records.pipe import Ended, Message, read_message
from worker.isolation.child import END, Child
from worker.isolation.limits import Confinement, Limits

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
        super().__init__(workspace, threads, command, confinement)

    def hear(self, seconds: float) -> Message | Ended | None:
        """The next message, Ended after the last one, None when there is none within the time.

        Raises ValueError for a line that is no message.
        """
        line = self.hear_line(seconds)
        if line is None:
            return None
        return Ended() if line == END else read_message(line)


def confinement(request: dict[str, Any], limits: Limits) -> Confinement:
    """Of an engine with that request: it reads the files that the request names, and writes its workspace."""
    texts = (text["path"] for text in request.get("texts", {}).values())
    named = (request.get("model"), request.get("inspect"), *texts)
    readable = tuple(path for path in named if isinstance(path, str) and path.startswith("/"))
    return Confinement(readable, (request["workspace"],), limits)
