"""The command line's plans, which start nothing; against scripted answers."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.secateur.conftest import Reply, Run, ScriptedServer

PLAN: dict[str, Any] = {
    "architecture": "LlamaForCausalLM",
    "blocks": 2,
    "parameters": 1_000,
    "pattern": "unstructured",
    "allocation": "uniform",
    "weights": 800,
    "zeros": 400,
    "sparsity": 0.5,
    "matched": [
        {
            "name": "q.weight",
            "target": 0.5,
            "settled": True,
            "pattern": "2:4",
            "solver": "admm",
            "overrides": ["q*"],
        }
    ],
    "skipped": [{"name": "norm.weight", "reason": "not a matrix (RMSNorm)", "weights": 8}] * 3,
    "overrides": [{"index": 0, "says": "q*", "matches": 1, "decides": 1}],
    "overlaps": [{"overrides": [0, 1], "winners": {"pattern": 1}, "matrices": ["q.weight", "k.weight"]}],
    "warnings": [{"code": "statistics_dropped", "message": "no Gram is kept", "data": {}}],
    "estimates": {name: {"total": 3 * 2**20} for name in ("memory_bytes", "disk_bytes", "seconds")},
}


def _plan(state: str, result: Any = None, error: Any = None) -> Reply:
    return Reply.json(
        {"id": "pln_1", "state": state, "spec": {"effort": "fast"}, "result": result, "error": error}
    )


def test_plan_waits_and_shows_what_would_be_done(run: Run, scripted: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"model": "mdl_1"}')
    scripted.script = [_plan("pending"), _plan("pending"), _plan("ready", PLAN)]
    code, out, _ = run("plan", str(tmp_path / "job.json"), "--matrices")
    assert code == 0
    assert [(request.method, request.path) for request in scripted.requests] == [
        ("POST", "/v1/plans"),
        *[("GET", "/v1/plans/pln_1?wait=30")] * 2,
    ]
    assert json.loads(scripted.requests[0].body) == {"model": "mdl_1"}
    assert "no Gram is kept (statistics_dropped)" in out
    for words in (
        "fast",
        "400 zeros",
        "3 tensors: not a matrix",
        "q* matches 1",
        "pattern: 1 wins",
        "3.0 MiB",
        "50.00%",
    ):
        assert words in out


def test_a_plan_that_cannot_be_is_an_error(run: Run, scripted: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{}")
    error = {
        "code": "unmatched_override",
        "message": "'x' matches nothing",
        "field": "/sparsity/overrides/0/match",
    }
    scripted.script = [_plan("pending"), _plan("failed", error=error)]
    code, out, err = run("plan", str(tmp_path / "job.json"))
    assert (code, out) == (1, "")
    assert "'x' matches nothing (unmatched_override at /sparsity/overrides/0/match)" in err


def test_planned_options_start_nothing(run: Run, scripted: ScriptedServer) -> None:
    error = {"code": "too_few_tokens", "message": "the text is too short", "field": "/domains/0"}
    failed = {"id": "pln_1", "state": "failed", "result": None, "error": error}
    scripted.script = [Reply.json(failed, 202), Reply.json(failed)]
    code, _, err = run("submit", "--model", "mdl_1", "--domain", "a=ds_1", "--plan")
    assert (code, err) == (1, "error: the text is too short (too_few_tokens at /domains/0)\n")
    assert scripted.requests[0].path == "/v1/plans"
    assert json.loads(scripted.requests[0].body)["model"] == "mdl_1"
    assert {urlsplit(request.path).path for request in scripted.requests} == {"/v1/plans", "/v1/plans/pln_1"}
