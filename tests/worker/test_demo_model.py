"""The demo's look at a downloaded checkpoint, beside the GGUF file that the dense model is.

Slow: it needs a GGUF file and what is made of it.
"""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.tiny import make_tiny_llama
from tests.worker.intake.tiny_gguf import write_tiny_gguf
from worker.demo_model import Request

pytestmark = pytest.mark.slow


def test_both_models_write_and_zeros_are_counted(tmp_path: Path) -> None:
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf")
    answer = tmp_path / "answer.json"
    pruned = make_tiny_llama(tmp_path / "pruned")
    # Two letters, whose tokens the smaller vocabulary has too.
    request = Request(str(gguf), str(pruned), str(answer), ["xq"], new_tokens=2)
    command = [sys.executable, "-m", "worker.demo_model", json.dumps(asdict(request))]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    found = json.loads(answer.read_text())
    assert len(found["dense"]) == len(found["pruned"]) == 1
    assert set(found["zeros"].values()) == {0}
    assert "model.layers.1.mlp.down_proj.weight" in found["zeros"]
