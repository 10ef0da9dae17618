"""Crashed children come back; hopeless ones end the stack."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.local import supervisor as supervisor_module
from app.local.children import Child
from app.local.supervisor import Supervisor
from secateur.backoff import Backoff

SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """One that looks often and restarts soon."""
    monkeypatch.setattr(supervisor_module, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(supervisor_module, "BACKOFF", Backoff(0.01, longest=0.1))
    found = Supervisor()
    yield found
    found.stop()


class Watched(Child):
    """A child that tells when it is started."""

    def start(self) -> None:
        super().start()
        self.starts.release()

    starts: threading.Semaphore


def _watched(name: str, command: list[str], folder: Path) -> Watched:
    child = Watched(name, command, folder / f"{name}.log")
    child.starts = threading.Semaphore(0)
    return child


def test_crashed_child_is_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    child = _watched("sleeper", SLEEPER, tmp_path)
    supervisor.add(child)
    assert child.starts.acquire(timeout=20)
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert child.starts.acquire(timeout=20)
    assert child.running
    assert child.pid != first
    assert not supervisor.ended.is_set()


def test_child_that_always_crashes_ends_the_stack(supervisor: Supervisor, tmp_path: Path) -> None:
    child = Child("broken", ["false"], tmp_path / "broken.log")
    supervisor.add(child)
    assert supervisor.ended.wait(20)
    assert supervisor.failure is not None
    assert "broken ended 7 times in a row" in supervisor.failure
    assert str(tmp_path / "broken.log") in supervisor.failure


def test_stop_goes_backwards_through_the_groups(tmp_path: Path) -> None:
    order: list[str] = []

    class Recorded(Child):
        def kill(self) -> None:
            super().kill()
            order.append(self.name)

    supervisor = Supervisor()
    for group in (("postgres",), ("api",), ("gpu", "cpu")):
        supervisor.add(*(Recorded(name, SLEEPER, tmp_path / name) for name in group))
    supervisor.stop()
    assert order == ["gpu", "cpu", "api", "postgres"]


def test_hurry_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    program = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    )
    child = Child("deaf", [sys.executable, "-c", program], tmp_path / "log", grace=200)
    supervisor = Supervisor()
    supervisor.add(child)
    while "up" not in child.tail():
        assert not child.wait(0.01)
    threading.Timer(0.1, supervisor.hurry).start()
    supervisor.stop()
    assert child.exit_code == -signal.SIGKILL
