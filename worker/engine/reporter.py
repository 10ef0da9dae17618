"""The engine's end of the two pipes: records out, acknowledgements and the order to stop in."""

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import IO, Final

from secateur.spec.records.pipe import BlockResult, Message, Output

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

    def tell(self, record: Message) -> None:
        """Waits with a block while two are unacknowledged, and after an output until the artifact is published."""
        if isinstance(record, BlockResult):
            with self._changed:
                self._wait(lambda: self._waiting < UNACKNOWLEDGED_BLOCKS)
                self._waiting += 1
        self._reports.write(record.model_dump_json() + "\n")
        self._reports.flush()
        if isinstance(record, Output):
            self._wait(lambda: self._published)

    def settle(self) -> None:
        """Wait until every block is acknowledged."""
        self._wait(lambda: not self._waiting)

    def check(self) -> None:
        if self._stop:
            raise self._stopped()

    def _wait(self, until: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stop or until())
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
