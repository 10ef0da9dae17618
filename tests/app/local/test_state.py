"""The state folder: one owner, private files, the same secrets after a restart."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.local.children import Child
from app.local.errors import StateError
from app.local.state import StateFolder, write_private

REPOSITORY = Path(__file__).parents[3]
SLEEPER = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]

OWNER = """
import signal, sys
from pathlib import Path
from app.local.children import Child
from app.local.state import StateFolder
state = StateFolder(Path(sys.argv[1]))
state.lock()
# As slow to go as PostgreSQL may be: this one ignores the death of its parent.
child = Child("slow", sys.argv[2:], state.logs / "slow.log", inherit=(state.lock_handle,))
child.death_signal = signal.SIGWINCH
child.start()
while not child.tail():
    child.wait(0.01)
print(child.pid, flush=True)
signal.pause()
"""


def _owner(state: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(state), *SLEEPER], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )


def test_second_owner_is_refused_by_name(tmp_path: Path) -> None:
    owner = _owner(tmp_path)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    with pytest.raises(StateError, match=f"already running in .* \\(process {owner.pid}\\)"):
        StateFolder(tmp_path).lock()
    owner.kill()
    owner.wait()
    _kill(child)


def test_state_is_free_only_when_the_last_child_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = _owner(tmp_path)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    monkeypatch.setattr("app.local.state.LOCK_SECONDS", 0.1)
    with pytest.raises(StateError, match="earlier stack"):
        StateFolder(tmp_path).lock()
    monkeypatch.setattr("app.local.state.LOCK_SECONDS", 20)
    _kill(child)
    state = StateFolder(tmp_path)
    state.lock()
    state.unlock()


def test_unlocked_state_is_free_at_once(tmp_path: Path) -> None:
    for _ in range(2):
        state = StateFolder(tmp_path)
        state.lock()
        child = Child("short", ["true"], state.logs / "short.log", inherit=(state.lock_handle,))
        child.start()
        child.stop()
        state.unlock()


def test_memory_survives(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    state.lock()
    memory = state.remember()
    memory.ports["api"] = 1234
    state.save(memory)
    state.unlock()
    assert StateFolder(tmp_path).remember() == memory
    assert len(memory.secret) >= 32


def test_damaged_memory_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{")
    with pytest.raises(StateError, match="damaged"):
        StateFolder(tmp_path).remember()


def test_secrets_are_private(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    state.lock()
    state.save(state.remember())
    state.unlock()
    assert state.path.stat().st_mode & 0o777 == 0o700
    assert (state.path / "stack.json").stat().st_mode & 0o777 == 0o600


def test_private_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "key"
    target.write_text("old")
    target.chmod(0o644)
    write_private(target, "new")
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [target]


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
