"""The dispatcher's health is that of its loops."""

import os
import time
from pathlib import Path

import pytest

from app.dispatch.health import LOOPS
from app.kit.turns import SILENCE_SECONDS, note_turn, stuck_loops


def test_loops_that_never_turned_are_stuck(tmp_path: Path) -> None:
    assert stuck_loops(tmp_path, LOOPS, 1) == list(LOOPS)


def test_a_good_turn_counts_for_a_while(tmp_path: Path) -> None:
    for loop in LOOPS:
        note_turn(tmp_path, loop)
    assert stuck_loops(tmp_path, LOOPS, 1) == []
    long_ago = time.time() - SILENCE_SECONDS - 10
    os.utime(tmp_path / "secateur-reaper-turn", (long_ago, long_ago))
    assert stuck_loops(tmp_path, LOOPS, 1) == ["reaper"]


def test_without_a_folder_nothing_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    note_turn(None, "reaper")
    assert list(tmp_path.iterdir()) == [], "not beside the process either"
    note_turn(tmp_path, "reaper")
    assert [path.name for path in tmp_path.iterdir()] == ["secateur-reaper-turn"]
