"""What a worker's look at its device finds, in the tests."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """word: what a look at the device finds from now on."""
    monkeypatch.setenv("CUDA_CACHE_PATH", str(tmp_path))

    def write(word: str) -> None:
        (tmp_path / "word").write_text(word)

    write("ready")
    return write
