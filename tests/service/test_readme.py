"""The README's HTTP example does what it says, line by line, on the real model."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.local.stack import Stack

README = Path(__file__).parents[2] / "README.md"


def http_example() -> str:
    """The bash block under "Over HTTP"."""
    section = README.read_text().split("## Over HTTP")[1].split("\n## ")[0]
    return re.search(r"```bash\n(.*?)```", section, re.S)[1]  # type: ignore[index]


@pytest.mark.timeout(900)
def test_the_http_example_runs_as_written(tmp_path: Path) -> None:
    state, folder = tmp_path / "state", tmp_path / "work"
    folder.mkdir()
    with Stack(state) as stack:
        environment = os.environ | {"SECATEUR_STATE": str(state), "SECATEUR_URL": stack.url, "NO_PROXY": "*"}
        command = ["bash", "-euo", "pipefail", "-c", http_example()]
        answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=840)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    printed = answer.stdout.replace(" ", "")
    assert '"state":"succeeded"' in printed
    dense, pruned = (float(found) for found in re.findall(r'"perplexity":\{"python-docs":([\d.]+)\}', printed))
    assert dense < pruned < 5 * dense
    AutoModelForCausalLM.from_pretrained(folder / "pruned/model")
    AutoTokenizer.from_pretrained(folder / "pruned/model")
    shards = sorted((folder / "pruned/model").glob("model-*.safetensors"))[
        :-1
    ]  # the last one is outside the blocks
    matrices = [tensor for shard in shards for tensor in load_file(shard).values() if tensor.dim() == 2]
    zeros, weights = (sum(int(count) for count in counts) for counts in zip(*map(_counted, matrices), strict=True))
    assert zeros == weights // 2


def _counted(matrix: torch.Tensor) -> tuple[int, int]:
    return int((matrix == 0).sum()), matrix.numel()
