"""How `ui/build.py` meets a registry of npm that does not answer."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a copy of it whose npm always fails; how often npm was called."""
    for name in ("build.py", "package-lock.json"):
        (tmp_path / name).write_bytes((ROOT / "ui" / name).read_bytes())

    def run(*options: str) -> int:
        calls: list[tuple[str | Path, ...]] = []

        def fail(*command: str | Path, at: Path = tmp_path) -> None:
            calls.append(command)
            raise SystemExit("npm ci failed")

        monkeypatch.setattr("sys.argv", ["build.py", *options])
        found = runpy.run_path(str(tmp_path / "build.py"))
        found["main"].__globals__["_run"] = fail
        with pytest.raises(SystemExit, match="npm"):
            found["main"]()
        return len(calls)

    return run


def test_npm_is_asked_once_for_a_lock_file_unless_somebody_wants_it_again(
    build: Callable[..., int], tmp_path: Path
) -> None:
    assert [build("--once"), build("--once"), build(), build("--once")] == [1, 0, 1, 0]
    with (tmp_path / "package-lock.json").open("a") as lock:
        lock.write("\n")
    assert [build("--once"), build("--once")] == [1, 0]


def test_npm_does_not_wait_for_a_registry_that_is_not_there() -> None:
    lines = (ROOT / "ui" / ".npmrc").read_text().splitlines()
    options = dict(line.split("=") for line in lines)
    assert (int(options["fetch-retries"]) + 1) * int(options["fetch-timeout"]) <= 60_000
