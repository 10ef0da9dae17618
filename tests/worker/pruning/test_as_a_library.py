"""README's example of the engine alone does what it says.

Slow: only the printed code shows that it runs.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.slow

README = Path(__file__).parents[3] / "README.md"


def test_the_example_runs_as_written(tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    section = README.read_text().split("## The engine alone\n")[1].split("\n## ")[0]
    example = re.search(r"```python\n(.*?)```", section, re.S)[1]  # type: ignore[index]
    (tmp_path / "smollm2").symlink_to(tiny_llama)
    for name, text in (("calibration", "a"), ("evaluation", "b")):
        (tmp_path / f"{name}.txt").symlink_to(texts / f"{text}.txt")
    listing = "\nfor file in output.files: print(file.path, file.local)"
    said = subprocess.run(
        [sys.executable, "-c", example + listing], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    estimates, perplexity, *files = said.stdout.splitlines()
    assert "disk" in estimates
    assert float(perplexity) > 1
    places = dict(line.split() for line in files)
    assert all((tmp_path / "work" / local).is_file() for local in places.values())
    AutoModelForCausalLM.from_pretrained((tmp_path / "work" / places["model/config.json"]).parent)
