"""Python's documentation on a tiny model whose tokenizer puts a token before every text."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import documentation
from tests.tiny import make_tiny_llama, put_before


def test_ours_is_what_transformers_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = put_before(make_tiny_llama(tmp_path / "model"), "<|end|>", behind="<|end|>")
    numbers = ["--samples", "4", "--windows", "3", "--length", "32", "--threads", "1"]
    given = ["--model", str(model), "--methods", "copal,admm", "--out", str(tmp_path / "found.json"), *numbers]
    monkeypatch.setattr(sys, "argv", ["documentation", *given])
    documentation.main()
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert rows.keys() == {"dense", "copal", "admm"}
    for row in rows.values():
        assert row["ours"] == pytest.approx(row["transformers"], rel=1e-5)
    assert len({row["ours"] for row in rows.values()}) == 3
