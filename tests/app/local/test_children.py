"""Children live and die with the process that started them."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from app.local.children import LOG_BYTES, Child

REPOSITORY = Path(__file__).parents[3]
SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]
FAMILY = [
    sys.executable,
    "-c",
    "import subprocess, sys, signal; subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
    "print('up', flush=True); signal.pause()",
]

PARENT = """
import json, signal, sys
from pathlib import Path
from app.local.children import Child
child = Child("sleeper", json.loads(sys.argv[1]), Path(sys.argv[2]), environment={}, watched=sys.argv[3] == "1")
child.start()
print(child.pid, flush=True)
signal.pause()
"""


def _wait_for_line(path: Path) -> None:
    with path.open() as log:
        while not log.readline().endswith("\n"):
            os.sched_yield()


def test_output_and_exit_code_are_kept(tmp_path: Path) -> None:
    child = Child("talker", [sys.executable, "-c", "print('hello'); raise SystemExit(3)"], tmp_path / "log")
    child.start()
    assert child.wait(30)
    assert (child.exit_code, child.tail()) == (3, "hello")


def test_environment_is_exactly_what_was_given(tmp_path: Path) -> None:
    program = "import os; print(sorted(os.environ.items()))"
    child = Child("env", [sys.executable, "-c", program], tmp_path / "log", environment={"A": "1"})
    child.start()
    child.wait(30)
    assert "('A', '1')" in child.tail()
    assert "PATH" not in child.tail()


def test_stop_asks_first(tmp_path: Path) -> None:
    program = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('up', flush=True);"
        "signal.pause()"
    )
    child = Child("polite", [sys.executable, "-c", program], tmp_path / "log")
    child.start()
    _wait_for_line(tmp_path / "log")
    child.stop()
    assert child.exit_code == 7


def test_stop_kills_who_does_not_listen(tmp_path: Path) -> None:
    program = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    )
    child = Child("deaf", [sys.executable, "-c", program], tmp_path / "log", grace=0.05)
    child.start()
    _wait_for_line(tmp_path / "log")
    child.stop()
    assert child.exit_code == -signal.SIGKILL


@pytest.mark.parametrize("watched", [False, True])
def test_killed_parent_leaves_no_process(tmp_path: Path, watched: bool) -> None:
    log = tmp_path / "log"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, json.dumps(FAMILY if watched else SLEEPER), str(log), str(int(watched))],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    if watched:  # the launcher beside it, the command, and the command's own child
        _wait_for_line(log)
    family = [child, *child.children(recursive=True)]
    assert len(family) == (3 if watched else 1)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


def test_watched_child_is_stopped_with_its_launcher(tmp_path: Path) -> None:
    child = Child("family", FAMILY, tmp_path / "log", watched=True)
    child.start()
    _wait_for_line(tmp_path / "log")
    assert child.pid is not None
    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    child.stop()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


def test_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    child = Child("sleeper", SLEEPER, tmp_path / "log")
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    assert not child.wait(0.3)
    child.kill()


def test_child_started_by_a_dead_parent_gives_up(tmp_path: Path) -> None:
    """The parent may die between the fork and the request for its death signal."""
    launcher = REPOSITORY / "app" / "local" / "launch.py"
    plan = {"parent": 1, "signal": 9, "uid": None, "gid": None, "capability": None, "pipe": None}
    ended = subprocess.run(
        [sys.executable, str(launcher), json.dumps(plan), "true"], capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "supervisor is gone" in ended.stderr


def test_full_log_is_moved_aside_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * (LOG_BYTES + 1))
    child = Child("talker", [sys.executable, "-c", "print('new')"], log)
    child.start()
    child.wait(30)
    assert log.read_text() == "new\n"
    assert (tmp_path / "log.1").stat().st_size == LOG_BYTES + 1
