"""The engine's end of the two pipes: reports out, acknowledgements and the order to stop in."""

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, Final

UNACKNOWLEDGED_BLOCKS: Final = 2
"""So many blocks may wait for their commit while the next one is computed."""


class Reporter:
    """An observer (see `worker.pruning.Observer`) that tells the supervisor, one JSON object a line."""

    def __init__(self, reports: IO[str], stopped: Callable[[], BaseException]) -> None:
        """stopped: makes the exception that a call raises after the order to stop."""
        self._reports = reports
        self._stopped = stopped
        self._changed = threading.Condition()
        self._waiting = 0
        self._stop = False
        self._published = False

    def listen(self) -> None:
        """Read the supervisor's lines on a thread; when it is gone, so are we."""
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def say(self, type: str, **fields: Any) -> None:
        """One message."""
        # allow_nan=False: what JSON cannot say must fail here, where the traceback is.
        line = json.dumps({"type": type, **fields}, default=_plain, allow_nan=False)
        self._reports.write(line + "\n")
        self._reports.flush()

    def hello(self, **fields: Any) -> None:
        self.say("hello", **fields)

    def progress(self, p: Any) -> None:
        self.check()
        self.say("progress", **_fields(p))

    def evaluation(self, e: Any) -> None:
        self.check()
        self.say("evaluation", **_fields(e))

    def block(self, b: Any) -> None:
        """Waits while two blocks are unacknowledged."""
        with self._changed:
            self._changed.wait_for(lambda: self._stop or self._waiting < UNACKNOWLEDGED_BLOCKS)
            self._waiting += 1
        self.check()
        message = _fields(b)
        message["files"] = [{"role": role, "path": path} for role, path in message["files"]]
        self.say("block", **message)

    def stage(self, s: Any) -> None:
        self.check()
        self.say("stage", **_fields(s))

    def note(self, level: str, message: str, data: dict[str, Any]) -> None:
        self.say("note", level=level, message=message, data=data)

    def check(self) -> None:
        if self._stop:
            raise self._stopped()

    def output(self, files: list[dict[str, str]], summary: dict[str, Any]) -> None:
        """The last message; returns when the artifact is published."""
        self.say("output", files=files, summary=summary)
        with self._changed:
            self._changed.wait_for(lambda: self._stop or self._published)
        self.check()

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            message = json.loads(line)
            with self._changed:
                if message["type"] == "stop":
                    self._stop = True
                elif message.get("output"):
                    self._published = True
                else:
                    self._waiting -= 1
                self._changed.notify_all()
        os._exit(1)


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _plain(value: Any) -> Any:
    """Records inside messages; everything else that JSON does not know is a mistake."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    raise TypeError(f"{type(value).__name__} in a report")
