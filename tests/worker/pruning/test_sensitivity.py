import itertools

import numpy
import pytest
import torch

from worker.pruning.sensitivity import summarise


def test_summary_of_known_scores() -> None:
    summary = summarise("w", torch.arange(1.0, 101.0).view(10, 10))
    assert summary.mean == 50.5
    assert summary.total == 5050
    assert summary.quantiles == {
        "0.01": 1.0,
        "0.05": 5.0,
        "0.25": 25.0,
        "0.5": 50.0,
        "0.75": 75.0,
        "0.95": 95.0,
        "0.99": 99.0,
    }
    assert len(summary.histogram["edges"]) == 21
    assert sum(summary.histogram["counts"]) == 100
    assert summary.histogram["edges"][-1] == pytest.approx(2.0)


def test_bins_count_the_powers_of_ten() -> None:
    """Twenty bins over four powers of ten: five a power, each with its lower edge; zeros are in the first."""
    scores = torch.tensor([0.0, 0.0, 1.0, 1.5, 2.0, 15.0, 9000.0, 10000.0]).view(2, 4)
    histogram = summarise("w", scores).histogram
    assert histogram["edges"] == pytest.approx([each / 5 for each in range(21)])
    assert histogram["counts"] == [4, 1, 0, 0, 0, 1, *[0] * 13, 2]


def test_bins_agree_with_a_histogram_of_logarithms() -> None:
    scores = torch.rand(200, 50) ** 4
    summary = summarise("w", scores)
    counts, edges = numpy.histogram(scores.double().log10().numpy(), bins=20)
    assert summary.histogram["edges"] == pytest.approx(edges.tolist(), rel=1e-6, abs=1e-6)
    assert numpy.abs(numpy.array(summary.histogram["counts"]) - counts).max() <= 2
    ordered = scores.flatten().sort().values
    assert summary.quantiles == {
        each: float(ordered[round(float(each) * 10_000) - 1]) for each in summary.quantiles
    }


@pytest.mark.parametrize("value", [0.0, 3.0, 1e-30])
def test_equal_scores_have_a_summary_too(value: float) -> None:
    summary = summarise("w", torch.full((4, 5), value))
    assert sum(summary.histogram["counts"]) == 20
    edges = summary.histogram["edges"]
    assert all(right > left for left, right in itertools.pairwise(edges))
