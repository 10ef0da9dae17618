"""What a real GPU is asked, in small and on the processor: every part that is timed is still there."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu_speed import PARTS


def test_the_parts_of_a_job_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    asked = [
        "--device",
        "cpu",
        "--small",
        "--only",
        "kernels,resume,speed",
        "--methods",
        "admm",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["gpu", *asked])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert not ended.value.code
    assert {label for _, _, label in PARTS} <= set(_parts(json.loads(out.read_text())))


def _parts(rows: list[dict[str, object]]) -> list[object]:
    return [row["part"] for row in rows if row.get("part")]
