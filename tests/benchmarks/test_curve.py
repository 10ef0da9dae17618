"""The curve of several targets, on a tiny model."""

import argparse
from pathlib import Path

import pytest

from benchmarks import curve
from benchmarks.continual_stages import Stages
from benchmarks.protocol import TESTS
from secateur.spec.effort import Effort
from secateur.spec.sparsity import FurtherStatistics


@pytest.mark.parametrize("statistics", FurtherStatistics)
def test_targets_are_what_they_are_by_themselves_where_statistics_are_their_own(
    bare: Stages, tmp_path: Path, statistics: FurtherStatistics
) -> None:
    options = argparse.Namespace(method="admm", effort=Effort.fast, cache=tmp_path, statistics=statistics)
    together, seconds = curve.measure(bare.model, bare.protocol, [0.5, 0.7], options)
    alone = [curve.measure(bare.model, bare.protocol, [target], options)[0] for target in (0.5, 0.7)]
    assert together.keys() == {"0.5", "0.7"}
    assert all(figures.keys() == set(TESTS) for figures in together.values())
    if statistics is FurtherStatistics.own:
        assert together["0.5"] == alone[0]["0.5"]
        assert together["0.7"] == alone[1]["0.7"]
    else:  # nothing is tuned, and the further one is solved by the first one's sums
        assert together["0.7"] != alone[1]["0.7"]
    assert together["0.7"] != together["0.5"]
    assert seconds > 0
