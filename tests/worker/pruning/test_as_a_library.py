"""The documented examples of the engine alone do what they say.

Slow: only the printed code shows that it runs.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def test_the_example_of_the_readme_runs_as_written(tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().split("## The engine alone\n")[1].split("\n## ")[0]
    [example] = python(section)[:1]
    said, files = run(example, tiny_llama, texts, tmp_path)
    estimates, perplexity = said
    assert "disk" in estimates
    assert float(perplexity) > 1
    assert all(path.is_file() for path in files.values())
    AutoModelForCausalLM.from_pretrained(files["model/config.json"].parent)


def test_the_job_of_llm_compressor_has_every_matrix_at_half(tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    theirs, ours = python((ROOT / "docs" / "migration.md").read_text())
    assert "oneshot(" in theirs
    said, files = run(ours, tiny_llama, texts, tmp_path)
    assert said == []
    model = AutoModelForCausalLM.from_pretrained(files["model/config.json"].parent)
    matrices = [
        each.weight for name, each in model.named_modules() if "layers." in name and hasattr(each, "weight")
    ]
    shares = [int((each == 0).sum()) / each.numel() for each in matrices if each.dim() == 2]
    assert shares == [0.5] * len(shares)
    assert len(shares) >= 7


def python(text: str) -> list[str]:
    """Its blocks of Python."""
    return re.findall(r"```python\n(.*?)```", text, re.S)


def run(example: str, model: Path, texts: Path, folder: Path) -> tuple[list[str], dict[str, Path]]:
    """Lines that it printed, and the files of its result by their paths."""
    (folder / "smollm2").symlink_to(model)
    for name, text in (("calibration", "a"), ("evaluation", "b")):
        (folder / f"{name}.txt").symlink_to(texts / f"{text}.txt")
    listing = "\nprint('----')\nfor file in output.files: print(file.path, file.local)"
    said = subprocess.run(
        [sys.executable, "-c", example + listing], cwd=folder, capture_output=True, text=True, check=True
    )
    printed, listed = said.stdout.split("----\n")
    return printed.splitlines(), {
        path: folder / "work" / local for path, local in map(str.split, listed.splitlines())
    }
