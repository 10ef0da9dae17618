"""Each domain's own Gram beside the sums, and the errors of later weights under it.

Slow: errors of later weights need later stages.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.spec.records.history import MatrixRecord
from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Recorder, Request
from tests.worker.pruning.lineages import chain, continuing, run_job, with_own_texts
from worker.pruning.calibration.domain_grams import KEY, Packed, domain_errors, read_domain_grams
from worker.pruning.state.moments import relative_error

pytestmark = pytest.mark.slow

ADMM: dict[str, Any] = {"name": "admm"}
KEPT: dict[str, Any] = {"keep_domain_statistics": True}


def records(recorder: Recorder, stage: int) -> list[MatrixRecord]:
    return [record for block in recorder.blocks if block.stage == stage for record in block.records]


def errors(record: MatrixRecord) -> dict[str, float]:
    assert record.domain_errors is not None
    return {name: value for name, value in record.domain_errors.items() if value is not None}


def test_errors_are_those_of_the_outputs_on_each_domain() -> None:
    inputs = {name: torch.randn(200, 6) @ torch.randn(6, 6) for name in "ab"}
    own = {name: Packed.of(x.T @ x / len(x)) for name, x in inputs.items()}
    pairs = [(torch.randn(rows, 6), torch.randn(rows, 6)) for rows in (3, 5)]
    for found, (weight, dense) in zip(domain_errors(own, pairs), pairs, strict=True):
        assert list(found) == ["a", "b"]
        for name, x in inputs.items():
            expected = (x @ (weight - dense).T).square().sum() / (x @ dense.T).square().sum()
            assert found[name] == pytest.approx(float(expected), rel=2e-3)


@pytest.mark.parametrize("mode", ["accumulated", "restart"])
def test_own_domain_has_its_own_error_and_earlier_ones_have_theirs(request_for: Request, mode: str) -> None:
    (ran,) = chain(request_for, "abc", method=ADMM | {"mode": mode}, output=KEPT)
    for stage, names in enumerate(("a", "ab", "abc")):
        for record in records(ran.recorder, stage):
            found = errors(record)
            assert list(found) == list(names)
            assert found[names[-1]] == pytest.approx(record.relative_error, rel=2e-3)
    assert ran.document()[KEY]["model.layers.0.self_attn.q_proj.weight"] == ["a", "b", "c"]


def test_forgetting_shows_in_the_errors(request_for: Request) -> None:
    """Started anew, the second stage fits the first domain worse than the sum of both does, layer by layer."""
    means = {}
    for mode in ("accumulated", "restart"):
        (ran,) = chain(request_for, "ab", name=mode, method=ADMM | {"mode": mode}, output=KEPT)
        first = [errors(record)["a"] for record in records(ran.recorder, 1)]
        means[mode] = sum(first) / len(first)
    assert means["accumulated"] < means["restart"]


def test_sequential_errors_are_against_the_dense_weights(request_for: Request) -> None:
    """The second stage removes nothing more; against the dense model it has an error, on either domain."""
    (ran,) = chain(request_for, "ab", method={"name": "wanda", "mode": "sequential"}, output=KEPT)
    for first, second in zip(records(ran.recorder, 0), records(ran.recorder, 1), strict=True):
        assert errors(second)["a"] == pytest.approx(errors(first)["a"])
        assert errors(second)["b"] == pytest.approx(second.relative_error, rel=2e-3)
        assert min(errors(second).values()) > 0
        assert second.held_out_error is not None
        assert second.held_out_error > 0


def test_what_is_kept_is_handed_on_through_a_lineage_unchanged(request_for: Request, tmp_path: Path) -> None:
    model = str(make_tiny("gpt2", tmp_path / "model"))
    first, second = chain(request_for, "a", "b", model=model, output=KEPT)
    path = "state/block-0001.safetensors"
    before, after = (read_domain_grams(ran.artifact(path)) for ran in (first, second))
    assert before
    for group, domains in before.items():
        assert list(after[group]) == ["a", "b"]
        assert torch.equal(after[group]["a"].triangle, domains["a"].triangle)
        assert torch.equal(after[group]["a"].diagonal, domains["a"].diagonal)
    assert all(list(errors(record)) == ["a", "b"] for record in records(second.recorder, 0))


def test_keeping_may_begin_late_and_changes_no_weight(request_for: Request) -> None:
    (parent,) = chain(request_for, "a", method=ADMM)
    runs = {}
    for name, output in (("plain", {}), ("kept", KEPT)):
        request = with_own_texts(request_for(domains="b", workspace=name, method=ADMM, output=output))
        runs[name] = run_job(continuing(parent, request))
    assert runs["kept"].weights() == runs["plain"].weights()
    assert all(list(errors(record)) == ["b"] for record in records(runs["kept"].recorder, 0))
    assert {record.domain_errors for record in records(runs["plain"].recorder, 0)} == {None}
    assert KEY not in runs["plain"].document()


def test_a_block_that_is_left_as_it_is_keeps_nothing(request_for: Request) -> None:
    overrides = [{"match": "model.layers.1.*", "skip": True}]
    sparsity = {"target": 0.5, "allocation": "uniform", "overrides": overrides}
    (ran,) = chain(request_for, "ab", sparsity=sparsity, output=KEPT)
    assert read_domain_grams(ran.artifact("state/block-0001.safetensors")) == {}


def test_error_of_dense_weights_is_zero_under_any_gram() -> None:
    weight = torch.randn(3, 4)
    packed = Packed.of(torch.eye(4))
    assert domain_errors({"a": packed}, [(weight, weight)]) == [{"a": 0.0}]
    assert relative_error(weight, weight, packed.gram(torch.device("cpu"))) == 0.0
