"""The curve of several targets, on a tiny model."""

import argparse
from pathlib import Path

from benchmarks import curve
from benchmarks.continual_stages import Stages
from benchmarks.protocol import TESTS
from secateur.spec.effort import Effort


def test_the_first_target_is_what_it_is_by_itself_and_others_differ(bare: Stages, tmp_path: Path) -> None:
    options = argparse.Namespace(method="admm", effort=Effort.fast, cache=tmp_path)
    together, seconds = curve.measure(bare.model, bare.protocol, [0.5, 0.7], options)
    alone, _ = curve.measure(bare.model, bare.protocol, [0.5], options)
    assert together.keys() == {"0.5", "0.7"}
    assert all(figures.keys() == set(TESTS) for figures in together.values())
    assert together["0.5"] == alone["0.5"]
    assert together["0.7"] != together["0.5"]
    assert seconds > 0
