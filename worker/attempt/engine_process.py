"""The engine as a child process: its start, its two pipes, its end."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final

from secateur.spec.records.pipe import Ended, Message, read_message
from worker.attempt.redaction import SOURCE_ROOT

# -P: the working folder, where the engine writes, is not searched for modules.
COMMAND: Final = (sys.executable, "-P", "-m", "worker.engine")
KEPT: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ", "PYTORCH_CUDA_ALLOC_CONF")
KEPT_PREFIXES: Final = ("CUDA_", "NVIDIA_")
LONGEST_MESSAGE: Final = 64 * 2**20
QUEUED_MESSAGES: Final = 1_000
SILENCE_SECONDS: Final = 2.0
END: Final = b""
"""Follows the engine's last line."""


def environment(workspace: Path, threads: int) -> dict[str, str]:
    """All that the engine sees of our environment: no setting, no key, no hub."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    return kept | {
        "PYTHONPATH": os.fspath(SOURCE_ROOT),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
        "HOME": os.fspath(workspace),
        "TMPDIR": os.fspath(workspace),
        "HF_HOME": os.fspath(workspace / ".huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # Threads that spin while they wait make a job many times slower as soon as anything else wants a core.
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


class EngineProcess:
    """The kernel ties the engine's life to the thread that starts it, which must outlive it."""

    def __init__(self, workspace: Path, threads: int, command: Sequence[str] = COMMAND) -> None:
        reports, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*command, "--report-fd", str(theirs), "--parent", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                start_new_session=True,
                env=environment(workspace, threads),
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

    @property
    def pid(self) -> int:
        return self._process.pid

    def listen(self, on_line: Callable[[str], None]) -> None:
        """Begin to read both pipes; `on_line` gets what the engine prints."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        for name, target, arguments in (
            ("engine reports", self._read_reports, ()),
            ("engine log", _read_lines, (self._process.stdout, on_line)),
        ):
            threading.Thread(target=target, args=arguments, name=name, daemon=True).start()

    def say(self, message: dict[str, Any]) -> None:
        """Send one line; an engine that is gone is noticed elsewhere."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def hear(self, seconds: float) -> Message | Ended | None:
        """The next message, Ended after the last one, None when there is none within the time.

        Raises ValueError for a line that is no message.
        """
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return Ended() if self._is_silent() else None
        return Ended() if line == END else read_message(line)

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
        """End the engine and all of its process group now. Any thread may do this."""
        self._signal(signal.SIGKILL)

    def finish(self, grace: float) -> int:
        """Exit code, negative for a signal; an engine that does not end by itself is killed. Frees everything."""
        self._ended_within(grace)
        self.kill()
        self._closed.set()
        while not self._ended_within(1):
            pass
        with self._reaping:
            code = self._process.wait()
        for pipe in (self._process.stdin, self._reports):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()
        return code

    def _is_silent(self) -> bool:
        """Whether it ended some time ago: a process that it left behind may still hold the pipe open."""
        if not self._has_ended():
            return False
        self._ended_at = self._ended_at or time.monotonic()
        return time.monotonic() - self._ended_at > SILENCE_SECONDS

    def _has_ended(self) -> bool:
        """Seen without reaping it."""
        if self._process.returncode is not None:
            return True
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self._has_ended():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True

    def _signal(self, number: signal.Signals) -> None:
        # While the engine is not reaped, its group's number cannot be another's.
        with self._reaping:
            if self._process.returncode is not None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

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
