"""The workflow that docs/platforms.md shows, step by step: it passes with a kept gate, and a missed one stops it.

Slow: only whole jobs end as a gate decides.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from secateur.cli.exits import Exit
from tests.platforms.conftest import Platform
from tests.snippets import snippet

pytestmark = pytest.mark.slow

KEPT = {"max_mean_perplexity": 12.5, "max_bwt": 1.5}
"""Of a result with 12 and 1."""
MISSED = {"max_mean_perplexity": 12.5, "max_bwt": 0.5}


def steps() -> list[dict[str, Any]]:
    """The steps that run a command, without the installation of what is tested here."""
    (job,) = yaml.safe_load(snippet("platforms.md", "A gate in CI"))["jobs"].values()
    return [step for step in job["steps"] if "run" in step and step["run"] != "pip install secateur"]


class Runner:
    """What GitHub Actions does with a step: the shell, files for its summary and outputs, expressions."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.outputs, self.summary = folder, dict[str, str](), ""

    def run(self, step: dict[str, Any]) -> int:
        files = {name: self.folder / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.write_text("")
        command = re.sub(r"\$\{\{ steps\.prune\.outputs\.(\w+) \}\}", lambda m: self.outputs[m[1]], step["run"])
        given = {"GITHUB_RUN_ID": "7", "GITHUB_RUN_ATTEMPT": "1"} | {
            name: str(file) for name, file in files.items()
        }
        done = subprocess.run(["bash", "-e", "-c", command], cwd=self.folder, env=os.environ | given, timeout=200)
        self.summary = files["GITHUB_STEP_SUMMARY"].read_text()
        self.outputs |= dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
        return done.returncode


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    (tmp_path / "checkout" / "prune").mkdir(parents=True)
    return Runner(tmp_path / "checkout")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("gate", [KEPT, MISSED], ids=["kept", "missed"])
def test_the_workflow_is_stopped_by_a_missed_gate_alone(
    gate: dict[str, float], platform: Platform, runner: Runner
) -> None:
    (runner.folder / "prune" / "job.json").write_text(json.dumps(platform.spec(gate=gate)))
    prune, _, fetch = steps()
    code = runner.run(prune)
    kept = gate == KEPT
    assert code == (Exit.well if kept else Exit.gate_missed)
    state = "succeeded" if kept else "failed"
    with platform.client() as client:
        (job,) = client.jobs()
    assert runner.outputs == {"job": job["id"], "state": state, "gate": "kept" if kept else "missed"}
    assert "| mean perplexity (`max_mean_perplexity`) | 12.5 | 12.0000 | yes |" in runner.summary
    assert f"| BWT (`max_bwt`) | {gate['max_bwt']} | 1.0000 | {'yes' if kept else '**no**'} |" in runner.summary
    assert "| \\(dense\\) | 10.00 |\n| d0 | 11.00 |\n| d1 | 12.00 |" in runner.summary
    assert runner.run(prune) == code, "the same step again finds the same job"
    with platform.client() as client:
        assert len(list(client.jobs())) == 1
    assert runner.run(fetch) == 0
    assert (runner.folder / "pruned" / "report.json").is_file()


def test_a_cancelled_workflow_takes_its_job_along(platform: Platform, runner: Runner) -> None:
    with platform.client() as client:
        job = client.submit(platform.spec())["id"]
        runner.outputs["job"] = job
        assert runner.run(steps()[1]) == 0
        assert client.job(job)["state"] == "cancelled"
