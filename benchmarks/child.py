"""A measured program in a process of its own: request in, answer out, memory watched from outside."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INTERVAL = 0.1
"""Seconds between two looks at the child's memory."""
PR_SET_PDEATHSIG = 1
_prctl = getattr(ctypes.CDLL(None), "prctl", None)
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class ChildFailed(Exception):
    """The program ended with an error; the message has the end of what it printed."""


@dataclass(frozen=True)
class Finished:
    answer: dict[str, Any]
    peak_rss_bytes: int
    """VmHWM: the most that was resident, mapped files included."""
    peak_anon_bytes: int
    """The most RssAnon that was seen at any look."""


def run_child(command: list[str], request: dict[str, Any], threads: int) -> Finished:
    """Run `command REQUEST ANSWER`, two JSON files of which it writes the second. Raises ChildFailed.

    A child does not outlive a benchmark that is terminated: it would go on beside the next one's measurements.
    """
    with ending_in_order(), tempfile.TemporaryDirectory() as folder:
        asked, answered, log = (Path(folder) / name for name in ("request.json", "answer.json", "log"))
        asked.write_text(json.dumps(request))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, str(asked), str(answered)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(threads),
                preexec_fn=_die_with_parent,
            )
            try:
                rss, anon = _watch(process)
            finally:
                process.kill()
                process.wait()
        if process.returncode or not answered.is_file():
            tail = log.read_text(errors="replace")[-4000:]
            raise ChildFailed(f"{' '.join(command)} ended with {process.returncode}:\n{tail}")
        return Finished(json.loads(answered.read_text()), rss, anon)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """SIGTERM ends the program as SystemExit does, so that what is to be tidied up is."""
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _die_with_parent() -> None:
    """In the child, before its program: the kernel ends it when this process is killed and can tidy up nothing."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _environment(threads: int) -> dict[str, str]:
    """Ours without what would favour or redirect one side; the same for both."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "KMP_BLOCKTIME")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return kept | OFFLINE | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def _watch(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    rss = anon = 0
    while True:
        try:
            process.wait(timeout=INTERVAL)
            return rss, anon
        except subprocess.TimeoutExpired:
            now = memory(process.pid)
            rss, anon = max(rss, now.get("VmHWM", 0)), max(anon, now.get("RssAnon", 0))


def memory(pid: int) -> dict[str, int]:
    """VmHWM, RssAnon and the like of a process, bytes; empty once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    sizes = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(amount) * 1024 for name, amount, _ in sizes}
