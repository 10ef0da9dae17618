"""`secateur login`: what it keeps, for whom, and where it is used."""

import io
import os
import stat
from pathlib import Path

import pytest

from secateur.config import Config, find_config, login_file
from tests.secateur.conftest import Reply, Run, ScriptedServer

WHO = {"project": {"id": "prj_1", "name": "ours"}, "key": {"id": "key_1", "name": "ci", "scopes": []}}


@pytest.fixture(autouse=True)
def _nothing_named(scripted: ScriptedServer, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SECATEUR_URL")
    monkeypatch.delenv("SECATEUR_API_KEY")
    monkeypatch.delenv("SECATEUR_STATE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO("sctr_secret\n"))


def test_a_key_is_checked_and_kept_for_its_owner_alone(run: Run, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json(WHO)]
    old = os.umask(0)
    try:
        code, out, err = run("login", scripted.url)
    finally:
        os.umask(old)
    assert (code, err) == (0, "")
    assert "sctr_secret" not in out
    assert "ci of ours" in out
    assert scripted.requests[0].headers["authorization"] == "Bearer sctr_secret"
    assert stat.S_IMODE(login_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(login_file().parent.stat().st_mode) == 0o700
    assert find_config(None, None) == Config(scripted.url, "sctr_secret")
    scripted.script = [Reply.json({"data": [], "next_cursor": None})]
    assert run("ls")[0] == 0
    assert scripted.requests[-1].headers["authorization"] == "Bearer sctr_secret"


def test_a_refused_key_is_not_kept(run: Run, scripted: ScriptedServer) -> None:
    problem = {"status": 401, "code": "unauthorized", "detail": "the key is unknown"}
    scripted.script = [Reply.json(problem, 401, Content_Type="application/problem+json")]
    code, out, err = run("login", scripted.url)
    assert (code, out) == (1, "")
    assert "the key is unknown" in err
    assert not login_file().exists()


def test_a_kept_key_goes_to_its_own_server_alone_and_can_be_forgotten(run: Run, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json(WHO)]
    run("login", scripted.url)
    code, _, err = run("--url", "http://127.0.0.1:9", "ls")
    assert code == 1
    assert "no API key" in err
    assert run("logout")[:2] == (0, "forgotten\n")
    assert run("logout")[:2] == (0, "nothing was kept\n")
    assert run("ls")[0] == 1
