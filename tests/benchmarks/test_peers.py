"""The peers' environment is made once for its pins, and a failure to make it says what failed."""

from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.child import ChildFailed
from benchmarks.protocol import digest


def test_every_peers_package_is_pinned_exactly() -> None:
    lines = [line for line in peers.PINS.read_text().splitlines() if line and not line.startswith("#")]
    names = [line.split("==")[0] for line in lines if line.count("==") == 1]
    assert len(names) == len(lines)
    assert {"torch", "llmcompressor", "compressed-tensors", "transformers"} <= set(names)


def test_environment_that_cannot_be_made_is_not_taken_for_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    for _ in range(2):
        with pytest.raises(ChildFailed, match="venv"):
            peers.peers_python(tmp_path)


def test_finished_environment_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / f"peers-{digest([peers.PINS])[:12]}"
    folder.mkdir()
    (folder / "ready").touch()
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert peers.peers_python(tmp_path) == folder / "bin/python"
