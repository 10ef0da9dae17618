"""The parts of a service as processes that somebody starts again, a random pause after each death."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from random import Random

import psutil
import psycopg
import redis

from app.local.children import Child
from app.local.errors import StartError
from app.local.ports import is_free
from app.local.seaweed import SeaweedServer

LONGEST_PAUSE = 2.0
"""Seconds before a dead part is started again, at the most."""
GRACE = 20.0
"""Seconds that a part gets to follow SIGTERM."""


class SteadySeaweed(SeaweedServer):
    """Keeps its ports when it is started again, because others know them."""

    def _bind(self) -> None:
        if self._listeners:
            self._remove_sockets()
        else:
            super()._bind()


class Part:
    """One process and its children, looked after by a thread."""

    def __init__(
        self, name: str, child: Child, start: Callable[[], None], draw: Random, port: Callable[[], int] = lambda: 0
    ) -> None:
        """port: where it listens; 0 when it does not."""
        self.name = name
        self.child = child
        self.frozen = False
        self.starts = 0
        self._start = start
        self._port = port
        self._draw = draw
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name=name, daemon=True)

    def begin(self) -> None:
        """Start it (again), and keep it running from now on."""
        if not self.child.running:
            self._start()
        self._thread.start()

    def end(self) -> None:
        """Stop looking after it and stop it."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        for process in self.family():
            with suppress(psutil.Error):
                process.resume()
        self.child.stop()

    def family(self) -> list[psutil.Process]:
        """The process and its descendants; empty when it is not there."""
        try:
            root = psutil.Process(self.child.pid) if self.child.running else None
            return [] if root is None else [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """The whole group at once."""
        self._to_group(signal.SIGKILL)

    def ask_to_stop(self, group: bool = False) -> None:
        """As a supervisor does, the process or its whole group; it insists after a time."""
        stopped = self.child.pid
        if group:
            self._to_group(signal.SIGTERM)
        else:
            self.child.ask_to_stop()

        def insist() -> None:
            if self.child.pid == stopped and self.child.running:
                self.kill()

        _later(GRACE, insist)

    def _to_group(self, number: signal.Signals) -> None:
        pid = self.child.pid
        with suppress(ProcessLookupError):
            if pid is not None and self.child.running:
                os.killpg(pid, number)

    def freeze(self, seconds: float) -> None:
        """Stop the clock for the process and all its descendants."""
        family = self.family()
        self.frozen = True
        freeze(family, seconds, self._thaw)

    def _thaw(self) -> None:
        self.frozen = False

    def _look_after(self) -> None:
        while not self._ending.wait(0.1):
            if self.child.running:
                continue
            with suppress(PermissionError):
                self.child.kill()  # what is left of its group
            if self._ending.wait(self._draw.uniform(0.1, LONGEST_PAUSE)):
                return
            # On another port nobody would find it. If a fault strikes while it starts, the next turn tries again.
            with suppress(StartError, psycopg.Error, redis.RedisError, OSError):
                if is_free(self._port()):
                    self._start()
                    self.starts += 1


def freeze(processes: list[psutil.Process], seconds: float, then: Callable[[], None] = lambda: None) -> None:
    """SIGSTOP, and SIGCONT after the time."""
    _signal(processes, signal.SIGSTOP)

    def thaw() -> None:
        _signal(processes, signal.SIGCONT)
        then()

    _later(seconds, thaw)


def _later(seconds: float, act: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
