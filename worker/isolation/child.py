"""A child process that opens what a stranger brought: its start, its two pipes, its limits, its end."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final

from worker.isolation.environment import environment
from worker.isolation.limits import Confinement

LONGEST_MESSAGE: Final = 64 * 2**20
QUEUED_MESSAGES: Final = 1_000
SILENCE_SECONDS: Final = 2.0
WATCH_SECONDS: Final = 0.05
"""Between two looks at the child's memory."""
END: Final = b""
"""Follows the child's last line."""
KILLED_SECONDS: Final = 15.0
"""What the kernel gets to end a killed child; shorter than a stopping worker waits for its attempt. It never ends
one that waits in a driver which does not answer."""

_lingering: Final[list["Child"]] = []


def lingering() -> list[int]:
    """Process ids of killed children that still have not ended."""
    _lingering[:] = [child for child in _lingering if not child.has_ended()]
    return [child.pid for child in _lingering]


class Child:
    """It isolates itself (`worker.isolation.enclosure`) as `confinement` says, which it gets on its command line.

    The kernel ties its life to the thread that starts it, which must outlive it.
    """

    def __init__(
        self,
        workspace: Path,
        threads: int,
        command: Sequence[str],
        confinement: Confinement | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """workspace: where it is at home; its working folder. command: takes what is added below. variables: of
        its environment, beside those that every child has."""
        confinement = confinement or Confinement()
        reports, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    *(*command, "--report-fd", str(theirs), "--parent", str(os.getpid())),
                    *("--confinement", confinement.dump()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                start_new_session=True,
                env={**environment(workspace, threads), **variables},
                cwd=workspace,
            )
        except BaseException:
            os.close(reports)
            raise
        finally:
            os.close(theirs)
        self._reports = os.fdopen(reports, "rb")
        self._lines: queue.Queue[bytes] = queue.Queue(QUEUED_MESSAGES)
        self._closed = threading.Event()
        self._reaping = threading.Lock()
        self._ended_at: float | None = None
        self.outgrown = False
        """It was killed because it held more memory than it may."""
        if confinement.limits.memory_bytes is not None:
            arguments = (confinement.limits.memory_bytes,)
            threading.Thread(target=self._watch_memory, args=arguments, name="child memory", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def listen(self, on_line: Callable[[str], None]) -> None:
        """Begin to read both pipes; `on_line` gets what the child prints."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        for name, target, arguments in (
            ("child reports", self._read_reports, ()),
            ("child log", _read_lines, (self._process.stdout, on_line)),
        ):
            threading.Thread(target=target, args=arguments, name=name, daemon=True).start()

    def say(self, message: dict[str, Any]) -> None:
        """Send one line; a child that is gone is noticed elsewhere."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def hear_line(self, seconds: float) -> bytes | None:
        """The next line, END after the last one, None when there is none within the time."""
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return END if self._is_silent() else None

    def has_more(self) -> bool:
        """Whether messages have come that nobody has heard yet."""
        return not self._lines.empty()

    def stop(self, grace: float) -> None:
        """Ask, then insist: stop message, SIGTERM after `grace` seconds, SIGKILL after two more."""
        self.say({"type": "stop"})
        if not self._ended_within(grace):
            self._signal(signal.SIGTERM)
            self._ended_within(2)
        self.kill()

    def kill(self) -> None:
        """End the child and all of its process group now. Any thread may do this."""
        self._signal(signal.SIGKILL)

    def finish(self, grace: float) -> int:
        """Exit code, negative for a signal; a child that does not end by itself is killed. Frees everything.

        One that the kernel cannot end is left (`lingering`), and counts as killed: it runs no code any more.
        """
        self._ended_within(grace)
        self.kill()
        self._closed.set()
        if not self._ended_within(KILLED_SECONDS):
            _lingering.append(self)
            return -signal.SIGKILL  # its pipes are still being read
        with self._reaping:
            code = self._process.wait()
        for pipe in (self._process.stdin, self._reports):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()
        return code

    def _is_silent(self) -> bool:
        """Whether it ended some time ago: a process that it left behind may still hold the pipe open."""
        if not self.has_ended():
            return False
        self._ended_at = self._ended_at or time.monotonic()
        return time.monotonic() - self._ended_at > SILENCE_SECONDS

    def has_ended(self) -> bool:
        """Seen without reaping it."""
        if self._process.returncode is not None:
            return True
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self.has_ended():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True

    def _signal(self, number: signal.Signals) -> None:
        # While the child is not reaped, its group's number cannot be another's.
        with self._reaping:
            if self._process.returncode is not None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _watch_memory(self, limit: int) -> None:
        """Kill the child when it holds more. Pages of files, which the kernel lets go of, do not count."""
        while not self.has_ended():
            if _held_bytes(self.pid) > limit:
                self.outgrown = True
                self.kill()
                return
            time.sleep(WATCH_SECONDS)

    def _read_reports(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := self._reports.readline(LONGEST_MESSAGE):
                self._put(line)
        self._put(END)

    def _put(self, line: bytes) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._lines.put(line, timeout=0.5)
                return


def _read_lines(pipe: IO[bytes], on_line: Callable[[str], None]) -> None:
    with contextlib.suppress(OSError, ValueError), pipe:
        while line := pipe.readline(8_192):
            if text := line.decode(errors="replace").rstrip():
                on_line(text)


def _held_bytes(pid: int) -> int:
    """Memory of a process that belongs to no file; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = dict(line.split(":", 1) for line in status.splitlines() if line.startswith(("RssAnon", "RssShmem")))
    return sum(1024 * int(size.split()[0]) for size in sizes.values())
