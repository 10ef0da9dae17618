"""`--gate`: what it refuses, prints and tells GitHub Actions; against scripted answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.secateur.conftest import Reply, Run, ScriptedServer, job_document

GATE = {"max_mean_perplexity": 12.5, "max_log_bwt": 0.05}
DOMAINS = [{"name": "a"}, {"name": "b"}]
FIGURES = {"mean_perplexity": 12.0, "bwt": 1.0, "log_bwt": 0.1}


def ended(state: str, **more: Any) -> Reply:
    spec = {"sparsity": {}, "domains": DOMAINS, "gate": GATE}
    return Reply.json(job_document(state, spec=spec, first_stage=0, **more))


@pytest.fixture
def spec(tmp_path: Path) -> str:
    file = tmp_path / "job.json"
    file.write_text(json.dumps({"model": "mdl_1", "domains": [], "gate": GATE}))
    return str(file)


def test_each_limit_is_printed_with_what_was_measured(run: Run, scripted: ScriptedServer, spec: str) -> None:
    failure = {"code": "gate_failed", "message": "missed", "cause": "user"}
    scripted.script = [ended("queued"), ended("failed", failure=failure, result=FIGURES)]
    code, out, _ = run("submit", spec, "--gate")
    assert code == 4
    lines = [line.split() for line in out.splitlines()]
    assert ["max_log_bwt", "0.05", "0.1000", "NO"] in lines
    assert ["max_mean_perplexity", "12.5", "12.0000", "yes"] in lines


def test_what_was_not_measured_is_not_kept(
    run: Run, scripted: ScriptedServer, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    failure = {"code": "engine_failed", "message": "<b>a | b</b>\n# c", "cause": "system"}
    scripted.script = [ended("queued"), ended("failed", failure=failure)]
    code, out, err = run("submit", spec, "--gate", "--json")
    assert code == 1
    assert json.loads(out)["state"] == "failed"
    assert ["max_mean_perplexity", "12.5", "–", "NO"] in [line.split() for line in err.splitlines()]
    assert (tmp_path / "output").read_text() == "job=job_1\nstate=failed\ngate=missed\n"
    assert "\\<b\\>a \\| b\\</b\\> \\# c" in (tmp_path / "summary").read_text()


@pytest.mark.parametrize("said", [{}, {"gate": None}])
def test_a_spec_without_a_gate_is_refused_before_anything_is_begun(
    run: Run, scripted: ScriptedServer, tmp_path: Path, said: dict[str, Any]
) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"model": "mdl_1", "domains": [], **said}))
    code, _, err = run("submit", str(tmp_path / "job.json"), "--gate")
    assert (code, scripted.requests) == (2, [])
    assert "the spec has none" in err


def test_a_continuation_may_have_its_parents_gate(run: Run, scripted: ScriptedServer) -> None:
    result = FIGURES | {"log_bwt": 0.01}
    scripted.script = [ended("succeeded"), ended("queued"), ended("succeeded", result=result)]
    assert run("submit", "--continues", "job_0", "--domain", "a=ds_1", "--gate")[0] == 0
    assert [request.method for request in scripted.requests] == ["GET", "POST", "GET"]


def test_a_job_that_is_there_is_watched_to_its_verdict(run: Run, scripted: ScriptedServer) -> None:
    good = FIGURES | {"log_bwt": 0.01}
    scripted.script = [ended("running"), ended("succeeded", result=good)]
    code, out, _ = run("watch", "job_1", "--gate")
    assert (code, "max_log_bwt" in out) == (0, True)
