"""Steps of the continual benchmark: what waits for what, several at a time, and runs that are broken off.

Slow: an order of several processes shows only while they run.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import continual, continual_stages
from benchmarks.child import ChildFailed
from benchmarks.continual_rows import Row, Stage
from benchmarks.continual_stages import Stages
from tests.benchmarks.conftest import LETTERS, command, folders, prune_here, row

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Breaking(Stages):
    """Fails where a lineage says so."""

    breaks: Callable[[str], bool] = lambda _lineage: False

    def figures(self, stage: Stage) -> dict[str, Any]:
        lineage = "".join(LETTERS[domain] for domain in stage.domains)
        if self.breaks(lineage):
            raise ChildFailed(lineage)
        return super().figures(stage)


def test_what_goes_on_from_a_failed_stage_is_not_tried(stages: Stages, made: list[str]) -> None:
    """The second stage fails, and the third with it; a row of the first alone has its figures."""
    setting = row("wanda/wpc").setting

    def fails_second(lineage: str) -> bool:
        return lineage == "wp"

    broken = Breaking(**vars(stages), breaks=fails_second)
    found, failed = continual.fill(broken, [Row(setting, "wpc"), Row(setting, "wcp")], keep=False)
    assert list(found) == ["wanda/wcp"]
    assert failed == {"wanda/wpc": "wp"}
    assert made == ["w", "wc", "wcp"]


@dataclass(frozen=True)
class Pooled(Stages):
    """Each of its processes, which are new ones, prunes by itself, or is killed where a lineage is `dies`."""

    dies: str = ""

    def figures(self, stage: Stage) -> dict[str, Any]:
        continual_stages.run_child = prune_here
        if "".join(LETTERS[domain] for domain in stage.domains) == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().figures(stage)


def test_a_killed_process_fails_its_steps_and_the_others_go_on(stages: Stages, made: list[str]) -> None:
    dying = Pooled(**vars(replace(stages, jobs=2)), dies="w")
    found, failed = continual.fill(dying, [row("wanda/wpc"), row("wanda:restart/wcp")], keep=False)
    assert found == {}
    assert set(failed.values()) == {"a process that made stages was killed"}
    again = replace(dying, dies="", jobs=1)
    assert set(continual.fill(again, [row("wanda:restart/wcp")], keep=False)[0]) == {"wanda:restart/wcp"}
    assert made == []  # here


def test_a_terminated_run_ends_at_once_with_all_its_processes(stages: Stages, tmp_path: Path) -> None:
    run = [sys.executable, "-m", "benchmarks.continual", *command(stages, tmp_path / "o.json", "--jobs", "2")]
    chosen = ["--rows", "wanda/wpc,wanda:restart/wpc"]
    process = subprocess.Popen([*run, *chosen], cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(pruning(process.pid)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    left = [path.name for path in stages.cache.iterdir() if path.name.startswith("tmp")]
    assert left == []
    with continual.alone(stages.cache):
        pass


def pruning(ancestor: int) -> list[int]:
    """Processes below that one that prune."""
    below = psutil.Process(ancestor).children(recursive=True)
    return [each.pid for each in below if "benchmarks.ours" in each.cmdline()]


def test_no_number_of_jobs_below_one_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        continual.main(["--list", "--jobs", "0"])
    assert "--jobs: at least 1" in capsys.readouterr().err


def test_several_at_a_time_give_what_one_at_a_time_gives(stages: Stages, made: list[str]) -> None:
    rows = [row("wanda/wpc"), row("wanda:restart/wpc")]
    other = Pooled(**vars(replace(stages, cache=stages.cache / "other", jobs=2)))
    other.cache.mkdir()
    (one, _), (two, failed) = (continual.fill(each, rows, keep=False) for each in (stages, other))
    assert failed == {}
    assert one.keys() == two.keys() == {"wanda/wpc", "wanda:restart/wpc"}
    for name, each in one.items():
        assert two[name]["final"] == pytest.approx(each["final"])
    assert made == ["w", "wp", "wpc", "p", "c"]  # the second run's are made elsewhere
    assert folders(other) == []
