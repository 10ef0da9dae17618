"""The command line's submit: specs from files and options, uploads on the way; against scripted answers."""

import json
from pathlib import Path

import pytest

from tests.secateur.conftest import Reply, Request, Run, ScriptedServer, job_document


def test_submit_takes_a_file_and_prints_the_id_only(run: Run, scripted: ScriptedServer, tmp_path: Path) -> None:
    spec = {"model": "mdl_1", "domains": []}
    (tmp_path / "job.json").write_text(json.dumps(spec))
    scripted.script = [Reply.json(job_document("queued"), 201)]
    assert run("submit", str(tmp_path / "job.json"), "--idempotency-key", "k") == (0, "job_1\n", "")
    assert json.loads(scripted.requests[0].body) == spec
    assert scripted.requests[0].headers["idempotency-key"] == "k"


def test_submit_uploads_local_files_once(run: Run, scripted: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text of a")
    (tmp_path / "b.jsonl").write_text('{"body": "b"}\n')

    def answer(request: Request) -> Reply:
        if request.path.startswith("/v1/models"):
            return Reply.json({"data": [{"id": "mdl_7", "name": "tiny", "state": "ready"}], "next_cursor": None})
        if request.path.startswith("/v1/datasets"):
            return Reply.json({"id": "ds_b" if b"body" in request.body else "ds_a", "state": "ready"}, 201)
        return Reply.json(job_document("queued"), 201)

    scripted.answer = answer
    a, b = tmp_path / "a.txt", tmp_path / "b.jsonl"
    options = [
        "--model",
        "tiny",
        "--domain",
        f"first={a}:{b}",
        "--domain",
        f"second={a}",
        "--domain",
        "third=ds_9:ds_8",
    ]
    options += ["--sparsity", "0.6", "--samples", "8", "--label", "team=search", "--text-field", "body"]
    options += ["--max-runtime", "12h"]
    assert run("submit", *options)[0] == 0
    assert [request.path.partition("?")[0] for request in scripted.requests] == [
        *("/v1/models", "/v1/datasets/upload", "/v1/datasets/upload", "/v1/jobs")
    ]
    assert json.loads(scripted.requests[-1].body) == {
        "model": "mdl_7",
        "method": {"name": "copal"},
        "sparsity": {"target": 0.6},
        "domains": [
            {"name": "first", "dataset": "ds_a", "calibration": {"samples": 8}, "evaluation": "ds_b"},
            {"name": "second", "dataset": "ds_a", "calibration": {"samples": 8}},
            {"name": "third", "dataset": "ds_9", "calibration": {"samples": 8}, "evaluation": "ds_8"},
        ],
        "limits": {"max_runtime": "12h"},
        "labels": {"team": "search"},
    }


def test_semi_structured_pattern_needs_no_target(run: Run, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json(job_document("queued"), 201)]
    run("submit", "--model", "mdl_1", "--domain", "a=ds_1", "--pattern", "2:4")
    assert json.loads(scripted.requests[0].body)["sparsity"] == {"pattern": "2:4"}


def test_a_continuation_says_only_what_is_new(run: Run, scripted: ScriptedServer, tmp_path: Path) -> None:
    scripted.script = [Reply.json(job_document("queued"), 201)] * 2
    options = ["--continues", "job_1", "--domain", "legal=ds_1:ds_2", "--max-bwt", "2"]
    assert run("submit", *options) == (0, "job_1\n", "")
    body = {
        "continues": "job_1",
        "domains": [{"name": "legal", "dataset": "ds_1", "evaluation": "ds_2"}],
        "gate": {"max_bwt": 2.0},
    }
    assert json.loads(scripted.requests[0].body) == body
    (tmp_path / "job.json").write_text(json.dumps({"domains": body["domains"], "priority": 3}))
    assert run("submit", str(tmp_path / "job.json"), "--continues", "job_1")[0] == 0
    assert json.loads(scripted.requests[1].body) == {
        "continues": "job_1",
        "domains": body["domains"],
        "priority": 3,
    }


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        (["--sparsity", "1"], "/sparsity/target"),
        (["--pattern", "02:04"], "/sparsity/pattern"),
        (["--method", "prayer"], "/method/name"),
        (["--method", "admm", "--weight-update", "none"], "/method/weight_update"),
        (["--mode", "sequential", "--objective", "least_forgetting"], "/method/objective"),
        (["--samples", "0"], "/domains/0/calibration/samples"),
        (["--domain", "a=ds_2"], "/domains/1/name"),
        (["--max-runtime", "soon"], "/limits/max_runtime"),
        (["--label", "a b=c"], "/labels/a b"),
    ],
)
def test_options_that_no_server_takes_are_refused_before_a_text_is_uploaded(
    run: Run, scripted: ScriptedServer, tmp_path: Path, options: list[str], pointer: str
) -> None:
    (tmp_path / "a.txt").write_text("text of a")
    code, _, err = run("submit", "--model", "mdl_1", "--domain", f"a={tmp_path / 'a.txt'}", *options)
    assert code == 2
    assert pointer in "".join(err.split("\n"))
    assert scripted.requests == []


def test_refusal_names_the_field(run: Run, scripted: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{}")
    errors = [{"pointer": "/model", "parameter": None, "detail": "is missing"}]
    problem = {"status": 422, "code": "invalid_request", "detail": "not acceptable", "errors": errors}
    scripted.script = [Reply.json(problem, 422, Content_Type="application/problem+json")]
    code, _, err = run("submit", str(tmp_path / "job.json"))
    assert code == 2
    assert err == "error: not acceptable (422 invalid_request)\n  /model: is missing\n"
