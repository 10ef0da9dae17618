"""The client against scripted answers."""

import base64
import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secateur import Client, NotReachable, ProblemError, SecateurError, WaitTimeout
from secateur.spec.job import JobCreate
from tests.secateur.conftest import Connect, Reply, Request, ScriptedServer, job_document

PROBLEM = {
    "type": "urn:secateur:problem:invalid_request",
    "title": "The request is well-formed but cannot be accepted",
    "status": 422,
    "detail": "sparsity: must be below 1",
    "code": "invalid_request",
    "request_id": "01abc",
    "errors": [{"pointer": "/sparsity/target", "parameter": None, "detail": "must be below 1"}],
}


CREATING: dict[str, Callable[[Client, Path], dict[str, Any]]] = {
    "submit": lambda client, _: client.submit({}),
    "retry": lambda client, _: client.retry("job_1"),
    "plan": lambda client, _: client.plan({}),
    "add_model": lambda client, _: client.add_model("name", {}),
    "add_hub_dataset": lambda client, _: client.add_hub_dataset("name", id="a/b"),
    "upload_dataset": lambda client, text: client.upload_dataset(text),
}


@pytest.fixture
def client(connect: Connect, scripted: ScriptedServer) -> Client:
    return connect(scripted.url, "sctr_key", retry_seconds=5)


def test_key_goes_into_the_header(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json({"id": "job_1", "of_a_newer_server": [1]})]
    assert client.job("job_1") == {"id": "job_1", "of_a_newer_server": [1]}
    assert scripted.requests[0].headers["authorization"] == "Bearer sctr_key"


def test_problem_becomes_a_typed_error(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json(PROBLEM, 422, Content_Type="application/problem+json")]
    with pytest.raises(ProblemError, match="/sparsity/target: must be below 1") as caught:
        client.submit({})
    error = caught.value
    assert (error.status, error.code, error.request_id) == (422, "invalid_request", "01abc")
    assert error.pointers == ["/sparsity/target"]


def test_page_of_a_proxy_becomes_an_error_too(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [Reply(404, b"<html>nginx</html>", {"Content-Type": "text/html"})]
    with pytest.raises(ProblemError, match="Not Found") as caught:
        client.job("job_1")
    assert caught.value.code == "http_404"


def test_foreign_server_is_named_as_such(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [Reply(200, b"<html>hello</html>", {"Content-Type": "text/html"})]
    with pytest.raises(SecateurError, match="does not answer like Secateur"):
        client.job("job_1")


@pytest.mark.parametrize("status", [429, 503])
def test_refusal_is_tried_again_with_the_same_idempotency_key(
    client: Client, scripted: ScriptedServer, status: int
) -> None:
    scripted.script = [Reply.json({}, status, Retry_After="0"), Reply.json({"id": "job_1"}, 201)]
    assert client.submit({"a": 1})["id"] == "job_1"
    first, second = scripted.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert json.loads(second.body) == {"a": 1}


def test_each_submission_has_its_own_key_unless_given(client: Client, scripted: ScriptedServer) -> None:
    scripted.answer = lambda _: Reply.json({"id": "job_1"}, 201)
    client.submit({})
    client.submit({})
    client.submit({}, idempotency_key="mine")
    keys = [request.headers["idempotency-key"] for request in scripted.requests]
    assert keys[2] == "mine"
    assert len(set(keys)) == 3


def test_broken_answer_is_tried_again_only_when_harmless(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json({"id": "job_1"})]
    scripted.script.insert(0, Reply(200, b'{"id": "job_1"}', cut=3))
    assert client.job("job_1")["id"] == "job_1"
    scripted.script = [Reply(200, b'{"id": "job_1"}', cut=3), Reply.json({})]
    with pytest.raises(NotReachable):
        client.change("job_1", if_match='"1-0"', priority=3)
    assert len(scripted.script) == 1


@pytest.mark.parametrize("make", CREATING)
def test_what_makes_something_is_sent_until_it_is_answered(
    client: Client, scripted: ScriptedServer, make: str, tmp_path: Path
) -> None:
    """An answer that is lost, a bad gateway, and then the first try itself, which is still being worked on."""
    text = tmp_path / "a.txt"
    text.write_text("A text.")
    busy = Reply.json({**PROBLEM, "code": "idempotency_key_in_flight"}, 409, Retry_After="0")
    scripted.script = [Reply(201, b'{"id": "it"}', cut=3), Reply.json({}, 502), busy, busy]
    scripted.script.append(Reply.json({"id": "it", "state": "ready"}, 201))
    scripted.answer = lambda _: Reply.json({"id": "it", "state": "ready"})
    assert CREATING[make](client, text)["id"] == "it"
    tries = [each for each in scripted.requests if each.method == "POST"]
    assert len({(each.path, each.body, each.headers["idempotency-key"]) for each in tries}) == 1


def test_other_conflicts_are_reported_at_once(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json({**PROBLEM, "code": "job_unfinished", "status": 409}, 409), Reply.json({})]
    with pytest.raises(ProblemError):
        client.retry("job_1")
    assert len(scripted.script) == 1


def test_patience_ends(connect: Connect, scripted: ScriptedServer) -> None:
    scripted.answer = lambda _: Reply.json({}, 503, Retry_After="60")
    with pytest.raises(ProblemError) as caught:
        connect(scripted.url, "sctr_key", retry_seconds=5).job("job_1")
    assert caught.value.status == 503
    assert len(scripted.requests) == 1


def test_nobody_there(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(NotReachable, match=f"127.0.0.1:{port} does not answer"):
        connect(f"http://127.0.0.1:{port}", "sctr_key", retry_seconds=0).job("job_1")


def test_lists_are_read_page_by_page(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [
        Reply.json({"data": [{"id": 1}, {"id": 2}], "next_cursor": "c 2"}),
        Reply.json({"data": [{"id": 3}], "next_cursor": None}),
    ]
    rows = client.jobs(state="queued")
    assert next(rows)["id"] == 1
    assert len(scripted.requests) == 1
    assert [row["id"] for row in rows] == [2, 3]
    assert "state=queued" in scripted.requests[1].path
    assert "cursor=c+2" in scripted.requests[1].path.replace("%20", "+")


def test_a_conditional_change_is_not_sent_twice(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json({}, 502), Reply.json({"id": "job_1"})]
    with pytest.raises(ProblemError):
        client.change("job_1", if_match='"1-0"', priority=3)
    assert client.change("job_1", labels={"a": "b"}) == {"id": "job_1"}
    first, second = scripted.requests
    assert (first.method, first.headers["if-match"]) == ("PATCH", '"1-0"')
    assert json.loads(second.body) == {"labels": {"a": "b"}}


def test_ids_cannot_change_the_path(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json({})]
    client.job("../models?x")
    assert scripted.requests[0].path == "/v1/jobs/..%2Fmodels%3Fx"


def test_wait_returns_the_finished_job(client: Client, scripted: ScriptedServer) -> None:
    states = ["queued", "running", "failed"]
    scripted.script = [Reply.json({"id": "job_1", "state": state}) for state in states]
    seen: list[str] = []
    job = client.wait("job_1", every=0.01, on_update=lambda job: seen.append(job["state"]))
    assert job["state"] == "failed"
    assert seen == states


def test_wait_leaves_the_waiting_to_the_server(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json({"id": "job_1", "state": state}) for state in ("running", "succeeded")]
    assert client.wait("job_1", every=0.01)["state"] == "succeeded"
    assert [request.path for request in scripted.requests] == ["/v1/jobs/job_1?wait=30"] * 2
    assert "if-none-match" not in scripted.requests[0].headers


def test_wait_with_updates_is_told_the_first_at_once_and_then_each_change(
    client: Client, scripted: ScriptedServer
) -> None:
    scripted.script = [
        Reply.json({"id": "job_1", "state": "running"}, ETag='"1"', Retry_After="60"),
        Reply(304, b"", {"ETag": '"1"', "Retry-After": "60"}),
        Reply.json({"id": "job_1", "state": "failed"}, ETag='"2"'),
    ]
    seen: list[str] = []
    client.wait("job_1", every=0.01, on_update=lambda job: seen.append(job["state"]))
    assert seen == ["running", "running", "failed"]
    first, second, third = scripted.requests
    assert first.path == "/v1/jobs/job_1"
    for later in (second, third):
        assert (later.path, later.headers["if-none-match"]) == ("/v1/jobs/job_1?wait=30", '"1"')


def test_wait_asks_the_server_to_hold_no_longer_than_the_caller_waits(
    client: Client, scripted: ScriptedServer
) -> None:
    scripted.answer = lambda _: Reply.json({"id": "job_1", "state": "running"})
    with pytest.raises(WaitTimeout, match="job_1 is not finished"):
        client.wait("job_1", every=0.1, timeout=0.2)
    waits = [float(request.path.partition("wait=")[2] or 0) for request in scripted.requests]
    assert waits[0] <= 0.2
    assert waits == sorted(waits, reverse=True)


def test_wait_outlasts_a_restart_of_the_server(client: Client, scripted: ScriptedServer) -> None:
    """Which, when it stops, ends held requests with a 500 or a broken connection."""
    done = Reply.json({"id": "job_1", "state": "succeeded"})
    busy = Reply.json({"status": 429, "code": "too_many_waits", "detail": "no"}, 429, Retry_After="3600")
    scripted.script = [Reply(500, b"Internal Server Error"), Reply(200, b"{}", cut=0), busy, done]
    assert client.wait("job_1", every=0.01)["state"] == "succeeded"
    scripted.script = [Reply.json({"status": 404, "code": "job_not_found", "detail": "no"}, 404)]
    with pytest.raises(ProblemError):
        client.wait("job_1", every=0.01)


@pytest.mark.parametrize(
    "follow", [lambda client: client.wait("job_1"), lambda client: next(client.stream_logs("job_1"))]
)
def test_a_server_that_stays_away_is_given_up(
    follow: Any, client: Client, scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.waiting.AWAY", -1)
    scripted.answer = lambda _: Reply(500, b"Internal Server Error")
    with pytest.raises(ProblemError):
        follow(client)
    assert len(scripted.requests) == 1


def test_what_cannot_be_held_is_looked_at_when_the_server_says(client: Client, scripted: ScriptedServer) -> None:
    states = ("pending", "ready")
    scripted.script = [Reply.json({"id": "mdl_1", "state": state}, Retry_After="0") for state in states]
    assert client.wait_for_model("mdl_1")["state"] == "ready"
    assert [request.path for request in scripted.requests] == ["/v1/models/mdl_1"] * 2


def test_a_plan_is_held_too(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json({"id": "pln_1", "state": state}) for state in ("pending", "ready")]
    assert client.plan({})["state"] == "ready"
    assert [request.path for request in scripted.requests] == ["/v1/plans", "/v1/plans/pln_1?wait=30"]


def test_the_last_lines_are_read_backwards_and_given_forwards(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [
        Reply.json({"data": [{"seq": 9}, {"seq": 8}], "next_cursor": "more"}),
        Reply.json({"data": [{"seq": 7}, {"seq": 6}], "next_cursor": "more"}),
    ]
    assert [line["seq"] for line in client.last_logs("job_1", 3)] == [7, 8, 9]
    assert scripted.requests[0].path == "/v1/jobs/job_1/logs/tail?limit=3"


def test_wait_gives_up_in_time(client: Client, scripted: ScriptedServer) -> None:
    scripted.answer = lambda _: Reply.json({"id": "job_1", "state": "running"})
    with pytest.raises(WaitTimeout):
        client.wait("job_1", every=0.01, timeout=0.05)


def test_upload_streams_the_file_and_sends_it_whole_again(
    client: Client, scripted: ScriptedServer, tmp_path: Path
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"body": "text"}\n' * 200_000)
    scripted.script = [Reply.json({}, 503, Retry_After="0"), Reply.json({"id": "ds_1"}, 201)]
    assert client.upload_dataset(path, text_field="body")["id"] == "ds_1"
    request: Request
    for request in scripted.requests:
        assert request.body == path.read_bytes()
        assert request.headers["content-type"] == "application/octet-stream"
        digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        assert request.headers["content-digest"] == f"sha-256=:{digest}:"
    assert scripted.requests[1].path == "/v1/datasets/upload?name=corpus&format=jsonl&text_field=body"


@pytest.mark.parametrize(
    ("file", "format", "query"),
    [
        ("a.txt", None, "name=a&format=txt"),
        ("a.b.csv.gz", None, "name=a.b&format=csv&compression=gzip"),
        ("a.parquet", None, "name=a&format=parquet"),
        ("a.jsonl.zst", None, "name=a&format=jsonl&compression=zstd"),
        ("a.data", "csv.gz", "name=a&format=csv&compression=gzip"),
    ],
)
def test_a_files_name_says_its_format(
    file: str, format: str | None, query: str, client: Client, scripted: ScriptedServer, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(b"text")
    scripted.script = [Reply.json({"id": "ds_1"}, 202)]
    client.upload_dataset(tmp_path / file, format=format)
    assert scripted.requests[0].path == f"/v1/datasets/upload?{query}"


def test_upload_asks_for_the_format_it_cannot_guess(client: Client, tmp_path: Path) -> None:
    (tmp_path / "corpus.bin").write_text("text")
    with pytest.raises(SecateurError, match="say txt, jsonl, csv, parquet"):
        client.upload_dataset(tmp_path / "corpus.bin")


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8640",
        "ftp://host",
        "http://",
        "http://[::1",
        "http://host:99999",
        "http://host:x",
        "http://a\0b",
    ],
)
def test_url_must_be_one(connect: Connect, url: str) -> None:
    with pytest.raises(SecateurError, match="not the URL of a server"):
        connect(url, "sctr_key")


@pytest.mark.parametrize(
    ("method", "sparsity"),
    [
        ({"name": "copal"}, {"pattern": "2:4"}),
        ({"name": "admm"}, {"target": 0.5}),
        ({"name": "admm", "admm": {"rho": 2.0}, "target": "dense"}, {"target": 0.5}),
    ],
)
def test_a_typed_spec_is_sent_as_far_as_it_was_said(
    client: Client, scripted: ScriptedServer, method: dict[str, Any], sparsity: dict[str, Any]
) -> None:
    """What a preset means is the server's to say, which may be newer."""
    spec = {"model": "mdl_1", "method": method, "sparsity": sparsity, "priority": 3}
    spec |= {"domains": [{"name": "a", "dataset": "ds_1", "calibration": {"samples": 8}}]}
    scripted.script = [Reply.json(job_document("queued"), 201)]
    client.submit(JobCreate.model_validate(spec))
    assert json.loads(scripted.requests[0].body) == spec
