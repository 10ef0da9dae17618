"""A look at the device from outside: whatever becomes of the child that looks, the worker lives and knows.

Slow: a child that hangs, dies or cannot be ended is a process.
"""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.scripted_probe import UUID
from worker.device.finding import Finding, Health
from worker.device.look import look
from worker.isolation import child

pytestmark = pytest.mark.slow

SCRIPTED = "tests.worker.scripted_probe"


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finding]:
    """word: what the scripted probe finds."""
    monkeypatch.setenv("CUDA_CACHE_PATH", str(tmp_path))

    def ask(word: str, seconds: float = 20.0) -> Finding:
        (tmp_path / "word").write_text(word)
        return look("cuda:0", 0, tmp_path / "work", SCRIPTED, seconds)

    return ask


def test_the_childs_answer_is_the_finding(probe: Callable[..., Finding], tmp_path: Path) -> None:
    assert (probe("ready").health, probe("ready").uuid) == (Health.ready, UUID)
    assert probe("shared").health is Health.shared
    assert list((tmp_path / "work").iterdir()) == [], "its folder is gone"


def test_a_child_without_an_answer_is_a_sick_device(probe: Callable[..., Finding]) -> None:
    silent = probe("hang", seconds=1.0)
    assert (silent.health, silent.said) == (Health.sick, "its driver has not answered for 1 s")
    for word in ("crash", "nonsense"):
        assert probe(word).health is Health.sick


def test_the_real_probe_looks_at_this_machine_without_a_crash(tmp_path: Path) -> None:
    found = look("auto", 2**40, tmp_path)
    assert "died" not in found.said


def test_a_process_that_cannot_be_ended_is_left_and_no_other_joins_it(
    probe: Callable[..., Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits in a driver: no signal reaches it."""
    with monkeypatch.context() as patch:
        patch.setattr(child, "KILLED_SECONDS", 0.2)
        patch.setattr(child.Child, "kill", lambda self: None)
        assert probe("hang", seconds=1.0).health is Health.sick
    (stuck,) = child.lingering()
    found = probe("ready")
    assert found.health is Health.sick
    assert f"process {stuck}, which cannot be ended" in found.said
    next(each for each in child._lingering if each.pid == stuck)._signal(signal.SIGKILL)
    while child.lingering():
        pass
    assert probe("ready").health is Health.ready
