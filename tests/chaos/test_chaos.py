"""A service whose parts are killed, frozen and stopped at random keeps its promises. For longer: __main__.py.

Slow: no single fault shows what two at a time do.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
SEED = "7"
"""Of the default suite, so that it draws the same faults every time; the long mode draws one and prints it."""


@pytest.mark.timeout(600)
def test_disturbed_jobs_end_once_and_the_same(tmp_path: Path) -> None:
    """CHAOS_SEED repeats a run of the long mode that failed."""
    seed = os.environ.get("CHAOS_SEED", SEED)
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.chaos", "--jobs", "2", "--minutes", "1", "--seed", seed]
    done = subprocess.run([*command, "--json", str(report)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}\n{done.stderr}"
    figures = json.loads(report.read_text())
    assert figures["faults"]
    assert figures["succeeded"] == figures["jobs"] > 1
