"""What a child that reads strangers' files can do, and how it ends when it wants more than it may have."""

import socket
from pathlib import Path
from typing import Any

import pytest

from worker.isolation import LimitReached, Limits, landlock, run_isolated
from worker.isolation.limits import host_memory_bytes
from worker.model_files.errors import IntakeError

MIB = 2**20
LIMITS = Limits(
    memory_bytes=256 * MIB, data_bytes=512 * MIB, cpu_seconds=60, silent_seconds=120.0, file_bytes=4 * MIB
)


def ask(folder: Path, do: str, limits: Limits = LIMITS, **more: Any) -> Any:
    request = {"do": do, **more.pop("request", {})}
    answer = run_isolated(
        "tests.worker.isolation.greedy",
        request,
        what="the test's file",
        workspace=folder,
        limits=limits,
        field="/source",
        **more,
    )
    return answer["done"]


@pytest.mark.parametrize(
    ("do", "code", "limits"),
    [
        ("hold", "memory_limit", LIMITS),
        ("hold", "memory_limit", Limits(memory_bytes=128 * MIB)),
        ("hold", "memory_limit", Limits(data_bytes=128 * MIB)),
        ("reserve", "memory_limit", LIMITS),
        ("abort", "memory_limit", LIMITS),
        ("compute", "cpu_time_limit", Limits(cpu_seconds=1)),
        ("compute", "time_limit", Limits(silent_seconds=1.0)),
        ("wait", "time_limit", Limits(silent_seconds=1.0)),
        ("write", "file_size_limit", LIMITS),
    ],
)
def test_death_at_a_limit_is_the_users_and_says_which(do: str, code: str, limits: Limits, tmp_path: Path) -> None:
    with pytest.raises(LimitReached) as caught:
        ask(tmp_path, do, limits)
    assert (caught.value.code, caught.value.field) == (code, "/source")
    assert "the test's file" in caught.value.message
    assert "operator" in caught.value.message


def test_another_death_is_not_the_users(tmp_path: Path) -> None:
    for do in ("crash", "fail"):
        with pytest.raises(RuntimeError) as caught:
            ask(tmp_path, do)
        assert not isinstance(caught.value, IntakeError)
        assert "secret" not in str(caught.value)


def test_a_refusal_keeps_its_code_and_gets_the_field(tmp_path: Path) -> None:
    with pytest.raises(IntakeError) as caught:
        ask(tmp_path, "refuse")
    assert (caught.value.code, caught.value.message, caught.value.field) == ("bad", "It is bad.", "/source")


def test_it_sees_its_files_alone_and_has_no_network(tmp_path: Path) -> None:
    workspace, given, other = tmp_path / "workspace", tmp_path / "given", tmp_path / "elsewhere" / "other"
    for folder in (workspace, given, other.parent):
        folder.mkdir()
    (given / "file").write_text("given")
    (tmp_path / "target").write_text("linked")
    (given / "link").symlink_to(tmp_path / "target")
    other.write_text("other")
    told: list[dict[str, Any]] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        request = {"given": str(given / "file"), "linked": str(given / "link"), "other": str(other)}
        request |= {"port": server.getsockname()[1]}
        found = ask(workspace, "look", request=request, readable=[given], hear=told.append)
    assert told == [{"did": "look"}]
    assert {found[name] for name in ("given", "linked", "own")} == {"done"}
    assert found["connect"] == "denied"
    if landlock.version() == 0:
        pytest.skip("this kernel has no Landlock")
    assert {found[name] for name in ("other", "listed", "changed", "made")} == {"denied"}


def test_it_knows_no_setting_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_SECRET", "x" * 32)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert not [name for name in ask(tmp_path, "names") if "SECATEUR" in name or name == "HF_TOKEN"]


def test_the_work_stops_when_it_must(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        ask(tmp_path, "wait", check=stop)


def test_the_host_has_memory() -> None:
    assert 2**28 < host_memory_bytes() < 2**50
