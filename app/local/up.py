"""`secateur up`: run the stack until told to stop."""

import logging
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console

from app.kit.logs import formatter
from app.local.errors import LocalError
from app.local.stack import Stack
from secateur.errors import SecateurError

STOPPING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

log = logging.getLogger("secateur.local")


class _Interrupted(Exception):
    """A signal arrived while the stack was starting."""


class StopSignals:
    """Turns signals into a flag; while `raising`, also into an exception that ends a slow start.

    A second signal kills everything at once.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.received = threading.Event()
        self.raising = True

    def install(self) -> None:
        for number in STOPPING_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        again = self.received.is_set()
        self.received.set()
        if self.raising:
            self.raising = False
            raise _Interrupted(signal.Signals(number).name)
        if again:
            self.stack.supervisor.hurry()


def run(state: Path | None, host: str, port: int | None, model_roots: Sequence[Path]) -> int:
    """Start, tell where it is, wait for a signal, stop. The exit code. Raises SecateurError."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    stack = Stack(state, host=host, port=port, model_roots=model_roots)
    signals = StopSignals(stack)
    signals.install()
    try:
        with console.status("starting"):
            stack.start()
        signals.raising = False
    except _Interrupted:
        console.print("stopped while starting")
        return 130
    except (LocalError, OSError) as error:
        raise SecateurError(str(error)) from error
    _log_to(stack.state.logs / "supervisor.log", console)
    _announce(stack, console)
    return _serve(stack, signals, console)


def _serve(stack: Stack, signals: StopSignals, console: Console) -> int:
    # Waiting in slices: a wait without end would keep Python from running the signal handler on some systems.
    while not signals.received.wait(0.5) and not stack.supervisor.ended.is_set():
        pass
    console.print("stopping (again to stop at once)")
    stack.stop()
    console.print("stopped")
    if stack.supervisor.failure is not None:
        raise SecateurError(f"the stack was stopped: {stack.supervisor.failure}")
    return 0


def _announce(stack: Stack, console: Console) -> None:
    console.print(f"Secateur is up at {stack.url} (docs at {stack.url}/docs)")
    console.print(f"API key   {stack.state.key_file}")
    console.print(f"models    {stack.state.models} (a model root)")
    console.print(f"logs      {stack.state.logs}")
    console.print("`secateur ls` and the other commands find it by themselves. Ctrl-C stops it.")


def _log_to(file: Path, console: Console) -> None:
    """Crashes and restarts go to a file and to the terminal."""
    handler = logging.FileHandler(file)
    handler.setFormatter(formatter("json" if os.environ.get("SECATEUR_LOG_FORMAT") == "json" else "text"))

    class ToConsole(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.print(f"{record.levelname.lower()}: {record.getMessage()}")

    log.handlers = [handler, ToConsole()]
    log.setLevel(logging.INFO)
    log.propagate = False
