import io
import json
from typing import Any

import pytest

from tests.secateur.conftest import Reply, Run, ScriptedServer

PROJECT = {"id": "prj_1", "name": "search", "disabled": False, "created_at": "2026-01-01T00:00:00Z"}
KEY: dict[str, Any] = {
    "id": "key_1",
    "hint": "sctr_abcdef",
    "name": "ci",
    "state": "alive",
    "scopes": ["jobs:read", "jobs:write"],
    "expires_at": None,
    "last_used_at": "2026-01-01T00:00:00Z",
}
WHOAMI = Reply.json({"project": {"id": "prj_1", "name": "search"}, "key": KEY, "limits": {}})
EVENT = {
    "at": "2026-01-01T00:00:00Z",
    "action": "rotate_key",
    "object_id": "key_1",
    "key": None,
    "outcome": "done",
    "count": 1,
    "client": None,
}


def page(*rows: Any) -> Reply:
    return Reply.json({"data": list(rows), "next_cursor": None})


def test_a_tenant_is_set_up(scripted: ScriptedServer, run: Run) -> None:
    scripted.script = [Reply.json(PROJECT, 201), Reply.json({**KEY, "secret": "sctr_x"}, 201)]
    assert run("projects", "add", "search")[:2] == (0, "prj_1\n")
    scopes = ("--scope", "jobs:read", "--scope", "jobs:write")
    assert run("keys", "add", "ci", *scopes, "--project", "prj_1")[:2] == (0, "key_1 sctr_x\n")
    sent = scripted.requests[1]
    assert (sent.path, json.loads(sent.body)) == (
        "/v1/projects/prj_1/keys",
        {"name": "ci", "scopes": ["jobs:read", "jobs:write"]},
    )


def test_keys_are_the_own_projects_by_default(scripted: ScriptedServer, run: Run) -> None:
    scripted.script = [
        WHOAMI,
        page(KEY),
        WHOAMI,
        Reply.json({**KEY, "secret": "sctr_y"}, 201),
        WHOAMI,
        Reply(204, b""),
    ]
    _, out, _ = run("keys", "ls")
    assert "sctr_abcdef" in out
    assert "never" in out
    assert run("keys", "rotate", "key_1", "--grace", "0")[1] == "sctr_y\n"
    assert json.loads(scripted.requests[3].body) == {"grace_seconds": 0}
    assert run("keys", "rm", "key_1")[0] == 0
    assert (scripted.requests[5].method, scripted.requests[5].path) == ("DELETE", "/v1/projects/prj_1/keys/key_1")


def test_projects_are_listed_and_disabled(scripted: ScriptedServer, run: Run) -> None:
    scripted.script = [page(PROJECT), Reply.json(PROJECT), Reply.json(PROJECT), Reply(204, b"")]
    assert "enabled" in run("projects", "ls")[1]
    for command in ("disable", "enable", "rm"):
        assert run("projects", command, "prj_1")[0] == 0
    bodies = [json.loads(each.body) for each in scripted.requests if each.method == "PATCH"]
    assert bodies == [{"disabled": True}, {"disabled": False}]


def test_a_token_comes_by_standard_input_and_is_not_shown(
    scripted: ScriptedServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hf_secret_of_ours\n"))
    scripted.script = [Reply.json({"set": True, "hint": "…ours"})]
    code, out, err = run("projects", "hub-token", "--project", "prj_1")
    assert (code, out, err) == (0, "", "set, …ours\n")
    assert json.loads(scripted.requests[0].body) == {"token": "hf_secret_of_ours"}


def test_who_changed_what_and_who_asks(scripted: ScriptedServer, run: Run) -> None:
    scripted.script = [page(EVENT, EVENT), WHOAMI]
    _, out, _ = run("audit", "--action", "rotate_key", "--tail", "1")
    assert out.count("rotate_key") == 1
    assert "action=rotate_key" in scripted.requests[0].path
    assert "jobs:read,jobs:write" in run("whoami")[1]
