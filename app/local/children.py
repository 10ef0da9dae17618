"""Child processes that cannot outlive the process which started them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from app.local.identity import Identity

LAUNCHER: Final = Path(__file__).with_name("launch.py")
_SPAWNER: Final = ThreadPoolExecutor(1, thread_name_prefix="spawner")
"""The kernel sends the parent-death signal when the *thread* that forked ends, so one thread, which lives as long
as the process, makes all forks."""
LOG_BYTES: Final = 16 * 2**20
"""A log larger than this is moved aside (once) before its child starts again."""


@dataclass
class Child:
    """One server in the foreground, with its log, its way to stop and its tie to our life.

    On Linux the tie is the kernel's parent-death signal; elsewhere (`watched`) a launcher stays beside the
    command and watches a pipe that closes when we are gone.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """The whole environment of the child."""
    directory: Path | None = None
    identity: Identity | None = None
    """Who the child runs as; None means as we do."""
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    """What the child gets when we die without a chance to stop it."""
    grace: float = 10.0
    """Seconds between the request to stop and the kill."""
    inherit: tuple[int, ...] = ()
    """File handles the child keeps open."""
    watched: bool = sys.platform != "linux"
    _process: "subprocess.Popen[bytes] | None" = None
    _life_line: int | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs or was never started; negative when a signal ended it."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start the process; returns as soon as it exists. Its output is appended to the log."""
        if self.running:
            raise RuntimeError(f"{self.name} is running")
        self._close_life_line()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        _rotate(self.log)
        self._process = _SPAWNER.submit(self._spawn).result()

    def ask_to_stop(self) -> None:
        """Send the stop signal and return."""
        if self._process is not None and self.running:
            with suppress(ProcessLookupError):
                self._process.send_signal(self.stop_signal)

    def wait(self, seconds: float) -> bool:
        """Whether the process has ended within this time."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End the process and its group at once."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._close_life_line()

    def stop(self) -> None:
        """Ask, wait at most `grace` seconds, then kill; also what is left of its group."""
        self.ask_to_stop()
        self.wait(self.grace)
        self.kill()

    def complete(self, seconds: float) -> bool:
        """Run to the end, within this time; whether that was well."""
        self.start()
        try:
            return self.wait(seconds) and self.exit_code == 0
        finally:
            self.kill()

    def tail(self, lines: int = 15) -> str:
        """The end of the log, for error messages."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 16_384))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _spawn(self) -> "subprocess.Popen[bytes]":
        reader: int | None = None
        if self.watched:
            reader, self._life_line = os.pipe()
        plan = {
            "parent": os.getpid(),
            "signal": int(self.death_signal),
            "uid": self.identity.uid if self.identity else None,
            "gid": self.identity.gid if self.identity else None,
            "capability": self.identity.capability if self.identity else None,
            "pipe": reader,
        }
        try:
            with self.log.open("ab") as log:
                return subprocess.Popen(
                    [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(plan), *self.command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(self.environment),
                    cwd=self.directory,
                    # A session of its own: Ctrl-C reaches the supervisor only, which stops all in order.
                    start_new_session=True,
                    pass_fds=self.inherit if reader is None else (*self.inherit, reader),
                )
        finally:
            if reader is not None:
                os.close(reader)

    def _close_life_line(self) -> None:
        if self._life_line is not None:
            os.close(self._life_line)
            self._life_line = None


def _rotate(log: Path) -> None:
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            log.replace(log.with_name(log.name + ".1"))
