"""The README's first model and its HTTP examples do what they say, line by line, on the real model, if on a
part of the text.

Slow: only the commands themselves show that a reader can follow them.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.local.stack import Stack

pytestmark = pytest.mark.slow

BETWEEN = "----"
SHORTER = {
    '"samples": 8, "sequence_length": 256': '"samples": 4, "sequence_length": 128',
    '"sequence_length": 256, "max_windows": 8': '"sequence_length": 128, "max_windows": 2',
}
"""Numbers of the examples, and those that the test takes instead: an eighth of the work shows as much."""
FEWER = {
    "--samples 8 --sequence-length 256": "--samples 2 --sequence-length 64",
    "--max-windows 4": "--max-windows 1",
}
BIN = Path(sys.executable).parent
README = Path(__file__).parents[2] / "README.md"


def example(title: str, number: int = 0) -> str:
    """A bash block under a title."""
    section = README.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, re.S)[number]


def shortened(lines: str, numbers: dict[str, str]) -> str:
    for written, shorter in numbers.items():
        assert written in lines
        lines = lines.replace(written, shorter)
    return lines


@pytest.mark.timeout(900)
def test_the_http_examples_run_as_written(tmp_path: Path) -> None:
    state, folder = tmp_path / "state", tmp_path / "work"
    folder.mkdir()
    with Stack(state) as stack:
        environment = os.environ | {"SECATEUR_STATE": str(state), "SECATEUR_URL": stack.url, "NO_PROXY": "*"}
        # The second one goes on in the shell of the first, behind a line to tell their outputs apart.
        lines = f"{example('Over HTTP')}\necho '{BETWEEN}'\n{example('Months later')}"
        answer = run(shortened(lines, SHORTER), folder, environment)
        first = tmp_path / "first"
        first.mkdir()
        run(shortened(beginning(), FEWER), first, environment | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"})
    assert (first / "r.png").read_bytes().startswith(b"\x89PNG")
    AutoModelForCausalLM.from_pretrained(first / "pruned/model")
    printed, later = answer.stdout.replace(" ", "").split(BETWEEN)
    assert '"state":"succeeded"' in printed
    dense, pruned = (float(found) for found in re.findall(r'"perplexity":\{"python-docs":([\d.]+)\}', printed))
    assert dense < pruned < 5 * dense
    evaluation, end = json.JSONDecoder().raw_decode(later.strip())
    assert (evaluation["domains"], len(evaluation["rows"])) == (["python-docs", "again"], 3)
    assert evaluation["bwt"] is not None
    lineage = json.loads(later.strip()[end:])
    assert [job["state"] for job in lineage["jobs"]] == ["succeeded", "succeeded"]
    AutoModelForCausalLM.from_pretrained(folder / "pruned/model")
    AutoTokenizer.from_pretrained(folder / "pruned/model")
    shards = sorted((folder / "pruned/model").glob("model-*.safetensors"))[
        :-1
    ]  # the last one is outside the blocks
    matrices = [tensor for shard in shards for tensor in load_file(shard).values() if tensor.dim() == 2]
    zeros, weights = (sum(int(count) for count in counts) for counts in zip(*map(_counted, matrices), strict=True))
    assert zeros == weights // 2


def beginning() -> str:
    """What is typed for the first model beside the running service; the environment is this one."""
    activate, lines = example("A first model", 1).split("\n", 1)
    assert activate == ". .venv/bin/activate"
    return lines


def run(lines: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-euo", "pipefail", "-c", lines]
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=840)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer


def _counted(matrix: torch.Tensor) -> tuple[int, int]:
    return int((matrix == 0).sum()), matrix.numel()
