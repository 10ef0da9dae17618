"""The demo's texts: enough of them, and never the same text on both sides."""

import json
from pathlib import Path

from app.local.demo_text import write_domains


def _pieces(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return {json.loads(line)["text"] for line in text.splitlines()}
    return {line for line in text.splitlines() if len(line) > 60}


def test_calibration_and_evaluation_are_disjoint(tmp_path: Path) -> None:
    for domain in write_domains(tmp_path):
        calibration, evaluation = _pieces(domain.calibration), _pieces(domain.evaluation)
        assert len(evaluation) >= 10
        # Single lines, such as a licence's, may occur in two modules.
        assert len(calibration & evaluation) <= len(evaluation) // 100


def test_texts_are_the_same_every_time(tmp_path: Path) -> None:
    first, second = write_domains(tmp_path / "1"), write_domains(tmp_path / "2")
    for one, two in zip(first, second, strict=True):
        assert one.calibration.read_bytes() == two.calibration.read_bytes()
        assert one.calibration.stat().st_size > 200_000
        assert one.evaluation.stat().st_size > 50_000
