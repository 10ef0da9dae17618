"""The command line: exit codes, clear errors; against scripted answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from secateur.cli import app
from tests.secateur.conftest import Reply, Run, ScriptedServer, job_document

FAILURE = {"code": "too_few_tokens", "cause": "user", "message": "the text is too short", "field": "/domains/0"}


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 3)])
def test_exit_code_of_watch_reflects_the_job(run: Run, scripted: ScriptedServer, state: str, code: int) -> None:
    failure = FAILURE if state == "failed" else None
    scripted.script = [Reply.json(job_document("running")), Reply.json(job_document(state, failure=failure))]
    found, out, err = run("watch", "job_1")
    assert found == code
    assert "running" in err
    assert state in out
    assert ("the text is too short (too_few_tokens, cause: user at /domains/0)" in out) == (state == "failed")


def test_lineage_prints_the_tree_with_the_way(run: Run, scripted: ScriptedServer) -> None:
    def member(id: str, continues: str | None, first_stage: int, *domains: str) -> dict[str, Any]:
        place = {"continues": continues, "first_stage": first_stage, "domains": list(domains)}
        return {"id": id, "state": "succeeded", "created_at": "2026-01-01T00:00:00Z", **place}

    jobs = [
        member("job_1", None, 0, "a", "b"),
        member("job_2", "job_1", 2, "c"),
        member("job_3", "job_1", 2, "d"),
        member("job_4", "job_3", 3, "e"),
    ]
    tree = {"root": "job_1", "path": [jobs[0], jobs[2]], "jobs": jobs, "total": 5}
    scripted.script = [Reply.json(tree)]
    code, out, _ = run("lineage", "job_3")
    assert code == 0
    lines = out.splitlines()
    assert [next(word for word in line.split() if word.startswith("job_")) for line in lines[:4]] == [
        *("job_1", "job_2", "job_3", "job_4"),
    ]
    assert ["*" in line for line in lines[:4]] == [True, False, True, False]
    assert "0. a, 1. b" in lines[0]
    assert "3. e" in lines[3]
    assert lines[4] == "… 1 more: secateur ls --lineage job_1"


def test_the_state_is_written_whole_or_not_at_all(run: Run, scripted: ScriptedServer, tmp_path: Path) -> None:
    target = tmp_path / "state.tar"
    problem = {"status": 404, "code": "no_artifacts", "detail": "there is nothing"}
    refused = Reply.json(problem, 404, Content_Type="application/problem+json")
    scripted.script = [Reply(200, b"archive"), refused]
    assert run("state", "job_1", str(target)) == (0, f"{target}: 7 bytes\n", "")
    assert scripted.requests[0].path == "/v1/jobs/job_1/state"
    assert run("state", "job_2", str(target))[0] == 1
    assert target.read_bytes() == b"archive"
    assert [path.name for path in tmp_path.iterdir()] == ["state.tar"]


def test_warnings_are_shown_with_the_result(run: Run, scripted: ScriptedServer) -> None:
    data = {"domains": ["law", "code"], "overlap": 0.99951234}
    warning = {"code": "masks_unchanged", "message": "99.95 % of the mask is as before", "data": data}
    scripted.script = [
        Reply.json(job_document("succeeded", result={"warnings": [warning]}, continues="job_0", first_stage=2))
    ]
    out = run("get", "job_1")[1]
    assert "99.95 % of the mask is as before (masks_unchanged: domains law code, overlap 0.9995)" in out
    assert "job_0 (2 stages before)" in out


def test_what_an_intake_found_is_shown(run: Run, scripted: ScriptedServer) -> None:
    warning = {"code": "weights_not_taken", "message": "other weights", "data": {"files": ["b.safetensors"]}}
    model = {"id": "mdl_1", "state": "ready", "warnings": [warning], "error": None}
    scripted.script = [Reply.json({**model, "state": "pending", "warnings": []}, 202), Reply.json(model)]
    code, out, said = run("models", "add", "mine", "--folder", "mine")
    assert (code, out) == (0, "mdl_1\n")
    assert "warning: other weights (weights_not_taken: files b.safetensors)" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit"],
        ["submit", "--continues", "job_1"],
        ["submit", "spec.json", "--continues", "job_1", "--sparsity", "0.5"],
        ["submit", "spec.json", "--model", "mdl_1"],
        ["submit", "--model", "mdl_1"],
        ["submit", "--model", "mdl_1", "--domain", "nonsense"],
        ["submit", "--model", "mdl_1", "--domain", "a=/no/such/file"],
        ["submit", "/no/such/spec.json"],
        ["datasets", "add"],
        ["models", "add", "name"],
        ["submit", "--model", "mdl_1", "--domain", "a=ds_1", "--plan", "--watch"],
        ["change", "job_1"],
        ["logs", "job_1", "--follow", "--json"],
        ["verify", "job_1", "folder", "--stored"],
        ["plot", "job_1", "r.svg"],
        ["plot", "job_1", "r"],
        ["plot", "job_1", "r.png", "--with", "job_2"],
        ["nonsense"],
    ],
)
def test_wrong_use_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_every_command_but_two_has_json() -> None:
    def names(group: Any, path: str = "") -> Iterator[str]:
        for name, each in group.commands.items():
            if hasattr(each, "commands"):
                yield from names(each, f"{path}{name} ")
            elif not any("--json" in option.opts for option in each.params):
                yield path + name

    assert set(names(get_command(app))) == {"up", "demo"}


def test_an_argument_that_is_no_text_is_an_error_of_one_line(run: Run) -> None:
    assert run("get", "job_\udcff") == (1, "", "error: '\\udcff' is no text in utf-8\n")


def test_unknown_job_is_an_error_of_one_line(run: Run, scripted: ScriptedServer) -> None:
    problem = {"status": 404, "code": "not_found", "detail": "there is no such job"}
    scripted.script = [Reply.json(problem, 404, Content_Type="application/problem+json")]
    assert run("get", "job_2") == (1, "", "error: there is no such job (404 not_found)\n")


def test_ls_stops_at_the_limit(run: Run, scripted: ScriptedServer) -> None:
    scripted.script = [
        Reply.json({"data": [job_document("queued"), job_document("running")], "next_cursor": "more"})
    ]
    code, out, _ = run("ls", "--limit", "2", "--json")
    assert code == 0
    assert [job["state"] for job in json.loads(out)] == ["queued", "running"]


def test_ls_prints_a_line_a_job(run: Run, scripted: ScriptedServer) -> None:
    running = job_document("running", progress={"fraction": 0.25})
    scripted.script = [Reply.json({"data": [running], "next_cursor": None})]
    lines = run("ls")[1].splitlines()
    assert lines[1].split()[:5] == ["job_1", "running", "25%", "copal", "50%"]


def test_evaluation_prints_the_matrix(run: Run, scripted: ScriptedServer) -> None:
    rows = [
        {"row": 0, "stage": None, "after": None, "perplexity": {"a": 10.0, "b": 20.0}},
        {"row": 1, "stage": 0, "after": "a", "perplexity": {"a": 11.5, "b": None}},
    ]
    scripted.script = [Reply.json({"domains": ["a", "b"], "rows": rows, "bwt": None, "log_bwt": None})]
    out = run("evaluation", "job_1")[1]
    assert [line.split() for line in out.splitlines()[1:3]] == [
        ["(dense)", "10.00", "20.00"],
        ["a", "11.50", "–"],
    ]


def test_evaluation_prints_what_tasks_gave(run: Run, scripted: ScriptedServer) -> None:
    metric = {"name": "acc", "filter": "none", "value": 0.5, "stderr": 0.125}
    task = {"name": "own", "rows": 16, "few_shot": 0, "error": None}
    tasks = [
        {**task, "model": "dense", "metrics": [metric]},
        {**task, "model": "pruned", "metrics": [], "error": "x"},
    ]
    given = {"domains": [], "rows": [], "bwt": None, "log_bwt": None, "tasks": tasks}
    scripted.script = [Reply.json(given)]
    lines = [line.split() for line in run("evaluation", "job_1")[1].splitlines()]
    assert lines[-2:] == [
        ["own", "dense", "acc", "0.5000", "0.1250", "16", "0"],
        ["own", "pruned", "–", "–", "–", "16", "0", "x"],
    ]
    for each, harness in zip(tasks, ("0.4.13", "0.4.14"), strict=True):
        each["harness"] = harness
    scripted.script = [Reply.json(given)]
    lines = [line.split() for line in run("evaluation", "job_1")[1].splitlines()]
    assert [line[:3] for line in lines[-2:]] == [["own", "(lm-eval", "0.4.13)"], ["own", "(lm-eval", "0.4.14)"]]


@pytest.mark.parametrize(
    ("command", "state"), [("cancel", "cancelling"), ("pause", "pausing"), ("resume", "queued")]
)
def test_control_prints_the_state(run: Run, scripted: ScriptedServer, command: str, state: str) -> None:
    scripted.script = [Reply.json(job_document(state), 202)]
    assert run(command, "job_1") == (0, f"{state}\n", "")
    assert scripted.requests[0].path == f"/v1/jobs/job_1/{command}"


def test_retry_prints_the_new_jobs_id(run: Run, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json(job_document("queued", id="job_2"), 201)]
    assert run("retry", "job_1") == (0, "job_2\n", "")
    assert scripted.requests[0].path == "/v1/jobs/job_1/retry"


def test_rm_deletes_each_job_and_one_that_is_gone_after_a_retry_is_gone(
    run: Run, scripted: ScriptedServer
) -> None:
    problem = {"status": 404, "code": "job_not_found", "detail": "there is no such job"}
    gone = Reply.json(problem, 404, Content_Type="application/problem+json")
    scripted.script = [Reply(204, b""), Reply.json({}, 503, Retry_After="0"), gone]
    assert run("rm", "job_1", "job_2") == (0, "", "")
    assert [request.method for request in scripted.requests] == ["DELETE"] * 3
    scripted.script = [gone]
    assert run("rm", "job_3")[0] == 1


def test_version_needs_no_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECATEUR_URL")
    assert run("version")[0] == 0


def test_missing_server_is_explained(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SECATEUR_URL")
    monkeypatch.delenv("SECATEUR_API_KEY")
    code, _, err = run("--state", str(tmp_path), "ls")
    assert code == 1
    assert "secateur up" in err


def _page(*rows: dict[str, Any]) -> Reply:
    return Reply.json({"data": rows, "next_cursor": None})


def _line(seq: int, message: str) -> dict[str, Any]:
    return {"seq": seq, "at": "2026-01-01T00:00:00Z", "attempt": 1, "level": "info", "message": message}


def test_logs_are_printed_line_by_line(run: Run, scripted: ScriptedServer) -> None:
    scripted.script = [_page(_line(1, "[bold]one"), _line(2, "two"))]
    code, out, _ = run("logs", "job_1")
    assert code == 0
    assert [line.split()[2:] for line in out.splitlines()] == [["1", "info", "[bold]one"], ["1", "info", "two"]]


def test_logs_follow_from_the_tail(run: Run, scripted: ScriptedServer) -> None:
    ten = f"id: 10\nevent: log\ndata: {json.dumps(_line(10, 'ten'))}\n\n".encode()
    scripted.script = [
        _page(_line(9, "nine")),
        Reply(200, ten, {"Content-Type": "text/event-stream"}),
        Reply(204, b""),
    ]
    code, out, _ = run("logs", "job_1", "--tail", "1", "--follow")
    assert (code, [line.split()[-1] for line in out.splitlines()]) == (0, ["nine", "ten"])
    assert [(request.path, request.headers.get("last-event-id")) for request in scripted.requests] == [
        ("/v1/jobs/job_1/logs/tail?limit=1", None),
        ("/v1/jobs/job_1/logs", "9"),
        ("/v1/jobs/job_1/logs", "10"),
    ]


def test_events_say_what_happened(run: Run, scripted: ScriptedServer) -> None:
    data = {"from": "queued", "to": "running", "reason": None, "blocks": [1, 2]}
    scripted.script = [_page({"seq": 4, "at": "2026-01-01T00:00:00Z", "type": "transition", "data": data})]
    code, out, _ = run("events", "job_1", "--after", "3")
    assert code == 0
    assert out.split()[0] == "4"
    assert out.endswith("transition       from=queued to=running blocks=[1, 2]\n")
    assert scripted.requests[0].path == "/v1/jobs/job_1/events?after=3"


def test_attempts_say_who_tried_and_how_it_ended(run: Run, scripted: ScriptedServer) -> None:
    times = {"started_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:01:00Z", "fence": 1}
    lost = {"number": 1, "worker": "gpu0@a", "outcome": "worker_lost", "error": {"message": "no heartbeat"}}
    lost["engine"] = {"device": "cuda:0", "fingerprint": {"name": "Pretend"}}
    open = {"number": 2, "worker": "gpu0@b", "outcome": None, "error": None}
    scripted.script = [_page(lost | times, open | times | {"ended_at": None})]
    lines = run("attempts", "job_1")[1].splitlines()
    assert lines[1].split()[:3] == ["1", "gpu0@a", "Pretend"]
    assert lines[1].endswith("worker_lost  no heartbeat")
    assert lines[2].split()[-2:] == ["–", "–"]


def test_change_keeps_what_it_does_not_name(run: Run, scripted: ScriptedServer) -> None:
    limits = {"max_runtime": "12h", "max_pending": "1h"}
    now = job_document("queued", labels={"team": "search", "old": "yes"}, limits=limits)
    scripted.script = [Reply.json(now, ETag='"7-0"'), Reply.json(now)]
    options = ["--priority", "5", "--label", "old=", "--label", "new=1", "--max-pending", "none"]
    assert run("change", "job_1", *options) == (0, "", "")
    change = scripted.requests[1]
    assert (change.method, change.headers["if-match"]) == ("PATCH", '"7-0"')
    assert json.loads(change.body) == {
        "priority": 5,
        "labels": {"team": "search", "new": "1"},
        "limits": {"max_runtime": "12h", "max_pending": None},
    }


def test_a_priority_alone_needs_no_look(run: Run, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json(job_document("queued"))]
    assert run("change", "job_1", "--priority", "0")[0] == 0
    assert [json.loads(request.body) for request in scripted.requests] == [{"priority": 0}]


@pytest.mark.parametrize("kind", ["datasets", "models"])
def test_inputs_are_removed(run: Run, scripted: ScriptedServer, kind: str) -> None:
    scripted.answer = lambda _: Reply(204, b"")
    assert run(kind, "rm", "a", "b") == (0, "", "")
    sent = [(request.method, request.path) for request in scripted.requests]
    assert sent == [("DELETE", f"/v1/{kind}/a"), ("DELETE", f"/v1/{kind}/b")]


def test_the_store_is_verified_by_the_service(run: Run, scripted: ScriptedServer) -> None:
    files = [{"path": "model/config.json", "ok": True}, {"path": "report.json", "ok": False}]
    scripted.script = [Reply.json({"ok": False, "files": files}), Reply.json({"ok": True, "files": files[:1]})]
    code, _, err = run("verify", "job_1", "--stored")
    assert (code, err) == (1, "report.json: missing or different in the store\n")
    assert run("verify", "job_1", "--stored") == (0, "the store is as the manifest says\n", "")


def test_a_place_in_the_queue_is_shown(run: Run, scripted: ScriptedServer) -> None:
    waits = [
        {"code": "model", "id": "mdl_1", "until": None},
        {"code": "backoff", "id": None, "until": "2026-01-01T00:00:00Z"},
        {"code": "jobs", "id": None, "until": None},
        {
            "code": "memory", "id": None, "until": None,
            "needs": {"memory_bytes": 9 * 2**30, "host_bytes": 2**30, "device_bytes": 96 * 2**30},
        },
    ]  # fmt: skip
    place = {"job": "job_1", "state": "queued", "position": 3, "ahead": 2, "waits_for": waits}
    gone = {"job": "job_1", "state": "running", "position": None, "ahead": None, "waits_for": []}
    scripted.script = [Reply.json(place), Reply.json(gone), Reply.json(place)]
    _, out, _ = run("queue", "job_1")
    for text in ("position 3, 2 ahead", "waits for model mdl_1", "waits for backoff ", "waits for jobs"):
        assert text in out
    assert "waits for memory that no worker has: 96.0 GiB of a GPU and 1.0 GiB beside it, or 9.0 GiB" in out
    assert "running" in run("queue", "job_1")[1]
    assert json.loads(run("queue", "job_1", "--json")[1]) == place
