import itertools
from typing import Any
from unittest.mock import patch

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from secateur.spec.method import SparseGptSettings
from secateur.spec.records.history import Basis, SensitivitySummary
from tests.worker.pruning.conftest import Recorder, Request, prune
from worker.pruning.methods import lowest, sparsegpt
from worker.pruning.report import sensitivity
from worker.pruning.report.sensitivity import summarise


@pytest.fixture(params=["cpu", "gpu"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where scores are: on a GPU they are counted instead of sorted."""
    name: str = request.param
    monkeypatch.setattr(sensitivity, "shows_at_once", lambda value: name == "cpu")
    return name


@given(
    arrays.arrays(
        numpy.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=30),
        elements=st.one_of(st.floats(0, 2.0**100, width=32), st.sampled_from([0.0, 1.0, 1e-45])),
    )
)
def test_scores_are_counted_as_they_are_sorted(values: numpy.ndarray) -> None:
    scores = torch.from_numpy(values).flatten()
    one, other = sensitivity._Sorted(scores), sensitivity._OnDevice(scores)
    counted = 0  # as of a large matrix
    with patch.object(lowest, "SORTED", counted), patch.object(sensitivity, "SORTED", counted):
        large = sensitivity._OnDevice(scores)
        edges = numpy.unique(values)
        below = large.below(edges)
    assert one.quantiles == other.quantiles == large.quantiles
    assert one.positive == other.positive == large.positive
    assert one.total == pytest.approx(other.total)
    assert one.below(edges) == other.below(edges) == below


@pytest.mark.usefixtures("device")
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


@pytest.mark.usefixtures("device")
def test_bins_count_the_powers_of_ten() -> None:
    """Twenty bins over four powers of ten: five a power, each with its lower edge; zeros are in the first."""
    scores = torch.tensor([0.0, 0.0, 1.0, 1.5, 2.0, 15.0, 9000.0, 10000.0]).view(2, 4)
    histogram = summarise("w", scores).histogram
    assert histogram["edges"] == pytest.approx([each / 5 for each in range(21)])
    assert histogram["counts"] == [4, 1, 0, 0, 0, 1, *[0] * 13, 2]


@pytest.mark.usefixtures("device")
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


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("value", [0.0, 3.0, 1e-30])
def test_equal_scores_have_a_summary_too(value: float) -> None:
    summary = summarise("w", torch.full((4, 5), value))
    assert sum(summary.histogram["counts"]) == 20
    edges = summary.histogram["edges"]
    assert all(right > left for left, right in itertools.pairwise(edges))


Summaries = dict[str, SensitivitySummary]
"""By matrix."""
METHODS: list[dict[str, Any]] = [
    *({"name": name} for name in ("magnitude", "wanda", "admm", "sparsegpt")),
    *(
        {"name": "copal", "reading": reading, "perturbation": "relative"}
        for reading in ("own_terms", "token", "sample", "dataset", "fisher")
    ),
]
"""Those whose scores of a domain do not depend on the domains before."""


def summaries_of(request: dict[str, Any]) -> dict[tuple[Basis, int], Summaries]:
    """By basis and stage, of the first block: later ones read what other masks let through."""
    recorder = Recorder()
    prune(request, recorder)
    found: dict[tuple[Basis, int], Summaries] = {}
    for block in recorder.blocks:
        for summary in block.sensitivity if block.block == 0 else ():
            found.setdefault((summary.basis, block.stage), {})[summary.matrix] = summary
    assert {len(each) for each in found.values()} == {7}
    return found


def on(basis: Basis, summaries: Summaries) -> Summaries:
    return {name: summary.model_copy(update={"basis": basis}) for name, summary in summaries.items()}


def weighted(request: dict[str, Any], *weights: float) -> dict[str, Any]:
    for domain, weight in zip(request["domains"], weights, strict=True):
        domain["weight"] = weight
    return request


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(method.values()))
def test_a_domain_alone_is_what_a_job_without_memory_makes_of_it(
    request_for: Request, method: dict[str, Any]
) -> None:
    """Bit for bit, whatever the weights of the domains in the sums."""
    restarted = summaries_of(request_for(domains="ab", method=method | {"mode": "restart"}))
    for stage in (0, 1):  # the same thing there
        assert on(Basis.domain, restarted[Basis.accumulated, stage]) == restarted[Basis.domain, stage]
    found = summaries_of(weighted(request_for(domains="ab", method=method, workspace="weighted"), 100.0, 0.5))
    for stage in (0, 1):
        assert found[Basis.domain, stage] == restarted[Basis.domain, stage]
    sums = on(Basis.domain, found[Basis.accumulated, 1])
    assert (sums == found[Basis.domain, 1]) == (method["name"] == "magnitude")


@pytest.mark.parametrize("fields", [{}, {"recency": 3.0}])
def test_only_the_sums_grow_with_weights_and_recency(request_for: Request, fields: dict[str, Any]) -> None:
    """COPAL as it is by default, whose dx is away from the domains before."""
    request = request_for(domains="ab", method={"name": "copal"})
    plain = summaries_of(request)
    again = request_for(domains="ab", method={"name": "copal", **fields}, workspace="again")
    found = summaries_of(weighted(again, 100.0, 2.0))
    for stage in (0, 1):
        assert found[Basis.domain, stage] == plain[Basis.domain, stage]
    keeps = fields.get("recency", 1.0)
    for name, summary in found[Basis.accumulated, 1].items():
        first, second = (plain[Basis.domain, stage][name].mean for stage in (0, 1))
        assert found[Basis.accumulated, 0][name].mean == pytest.approx(100 * first, rel=1e-5)
        # Above one the recency divides what is new, so that the sums stay in their range.
        assert summary.mean == pytest.approx((keeps * 100 * first + 2 * second) / max(keeps, 1), rel=1e-5)
        assert plain[Basis.accumulated, 1][name].mean == pytest.approx(first + second, rel=1e-5)


def test_what_was_pruned_before_is_scored_once(request_for: Request) -> None:
    found = summaries_of(request_for(domains="ab", method={"name": "wanda", "mode": "sequential"}))
    for stage in (0, 1):
        assert on(Basis.domain, found[Basis.accumulated, stage]) == found[Basis.domain, stage]


def test_one_domain_s_gram_is_factorised_once_for_all_matrices_of_a_group(
    request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    real = sparsegpt.factorise

    def counted(gram: Tensor, config: SparseGptSettings) -> Any:
        widths.append(len(gram))
        return real(gram, config)

    monkeypatch.setattr(sparsegpt, "factorise", counted)
    prune(request_for(domains="ab", method={"name": "sparsegpt"}))
    blocks, groups = 2, 4  # attention's inputs, its output's, the MLP's inputs, its output's
    # The second stage has sums over both domains, and the second domain alone.
    assert len(widths) == blocks * groups * (1 + 2)
