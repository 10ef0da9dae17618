import itertools

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


@pytest.mark.parametrize("value", [0.0, 3.0, 1e-30])
def test_equal_scores_have_a_summary_too(value: float) -> None:
    summary = summarise("w", torch.full((4, 5), value))
    assert sum(summary.histogram["counts"]) == 20
    edges = summary.histogram["edges"]
    assert all(right > left for left, right in itertools.pairwise(edges))
