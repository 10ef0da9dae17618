"""How much each domain counts in the sums, and how precisely they are kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from secateur.spec.method import MethodName
from secateur.spec.output import Precision
from tests.specs import make_method
from tests.worker.pruning.conftest import Request
from tests.worker.pruning.lineages import Ran, chain, continuing, run_job, with_own_texts
from worker.pruning.allocation.result import Survey
from worker.pruning.methods import registry as methods
from worker.pruning.state.atomic import write_tensors
from worker.pruning.state.file import pack, read_state, state_content, unpack
from worker.pruning.state.moments import Accumulated, Accumulator, Factors, Measured, accumulate

CPU = torch.device("cpu")
ADMM = {"name": "admm"}


def measured(inputs: Tensor) -> Measured:
    accumulator = Accumulator(inputs.shape[1], CPU)
    accumulator.add(inputs)
    accumulator.add_importance("w", inputs[:, :2].abs().T @ inputs.abs())
    return accumulator.measured()


def summed(domains: list[Tensor], weights: list[float], keeps: float) -> Accumulated:
    sums: Accumulated | None = None
    for inputs, weight in zip(domains, weights, strict=True):
        sums = accumulate(sums, measured(inputs), keep_gram=True, weight=weight, keeps=keeps)
    assert sums is not None
    return sums


@pytest.mark.parametrize("keeps", [0.5, 1.0, 2.0, 3.7])
def test_sums_are_what_was_kept_plus_what_is_new_by_its_weight(keeps: float) -> None:
    """After three domains Σ_i γ^(2−i) · w_i · (domain i), in every sum; means and counts are as they are."""
    domains, weights = [torch.randn(size, 4) + 1 for size in (30, 50, 20)], [0.3, 1.0, 7.0]
    sums = summed(domains, weights, keeps)
    factors = [keeps**2 * weights[0], keeps * weights[1], weights[2]]
    means = [inputs.mean(0) for inputs in domains]

    def total(parts: list[Tensor]) -> Tensor:
        return torch.stack([factor * part for factor, part in zip(factors, parts, strict=True)]).sum(0)

    shifts = [domains[0], domains[1] - means[0], domains[2] - (means[0] + means[1]) / 2]
    assert sums.gram is not None
    torch.testing.assert_close(sums.gram, total([x.T @ x / len(x) for x in domains]))
    torch.testing.assert_close(sums.second, total([x.square().mean(0) for x in domains]))
    torch.testing.assert_close(sums.shift, total([dx.square().mean(0) for dx in shifts]))
    torch.testing.assert_close(sums.importance["w"], total([x[:, :2].abs().T @ x.abs() / len(x) for x in domains]))
    torch.testing.assert_close(sums.mean, torch.stack(means).sum(0))
    assert (sums.domains, sums.tokens) == (3, 100)
    assert torch.equal(sums.gram.diagonal(), sums.second)


@pytest.mark.parametrize("recency", [2.0, 4.0])
def test_sums_of_many_domains_stay_finite_whatever_the_recency(recency: float) -> None:
    """Of 140 domains with inputs of size 100, the first counts γ times what the second does, and so on."""
    domains, sums, scale = [measured(100 * torch.randn(40, 4)) for _ in range(140)], None, None
    for each in domains:
        by = Factors.of(0.5, recency, scale)
        sums = accumulate(sums, each, keep_gram=True, weight=by.weight, keeps=by.keeps)
        scale = by.scale
    assert sums is not None
    assert sums.gram is not None
    exact = sum(0.5 * recency**-number * each.gram.double() for number, each in enumerate(domains))
    torch.testing.assert_close(sums.gram.double(), exact, rtol=1e-5, atol=1e-2)
    assert scale == recency**-139


@pytest.mark.parametrize("recency", [0.25, 1.0, 2.0, 3.7])
def test_only_ratios_are_what_the_recencies_say(recency: float) -> None:
    """Over recencies that differ from stage to stage, as in a lineage of several jobs."""
    factors, coefficients, scale = [2.0, recency, 0.5, recency, 3.0], [0.5], Factors.of(0.5, 9.0, None).scale
    wanted = [0.5]
    for number, each in enumerate(factors):
        by = Factors.of(1.0 + number, each, scale)
        coefficients, scale = [*(by.keeps * value for value in coefficients), by.weight], by.scale
        wanted = [*(each * value for value in wanted), 1.0 + number]
    assert coefficients == pytest.approx([value * scale for value in wanted])
    assert max(coefficients) <= 5


def test_a_recency_up_to_one_multiplies_the_sums_as_they_are() -> None:
    assert Factors.of(3.0, 0.5, 1.0) == Factors(0.5, 3.0, 1.0)
    assert Factors.of(3.0, 1.0, 1.0) == Factors(1.0, 3.0, 1.0)


def test_a_heavy_domain_decides_as_if_it_were_alone() -> None:
    first, second = torch.randn(40, 4), torch.randn(40, 4)
    sums = summed([first, second], [0.01, 100.0], 1.0)
    assert sums.gram is not None
    torch.testing.assert_close(sums.gram / 100, second.T @ second / 40, rtol=1e-3, atol=1e-3)


def test_surveys_are_weighed_like_the_other_sums() -> None:
    one = Survey({0: torch.tensor(0.5)}, {"w": torch.ones(2)}, {"w": torch.arange(3.0)})
    two = Survey({0: torch.tensor(0.25)}, {"w": torch.full((2,), 4.0)}, {"v": torch.ones(3)})
    found = two.times(0.5).plus(one.times(2))
    assert float(found.outliers[0]) == 1.125
    assert found.outputs["w"].tolist() == [4, 4]
    assert {name: curve.tolist() for name, curve in found.curves.items()} == {
        "w": [0, 2, 4],
        "v": [0.5, 0.5, 0.5],
    }


def test_a_domain_s_weight_is_on_its_own_share_of_the_state(request_for: Request) -> None:
    """The second domain's weight leaves what the first one gave alone: state(w) − state(1) = (w − 1) · its own."""
    fields: dict[str, Any] = {"sparsity": {"target": 0.5, "allocation": "error"}, "method": {"name": "copal"}}
    plain, heavy = (lineage(request_for, weight, f"weight-{weight}", **fields) for weight in (1.0, 3.0))
    (first,) = chain(request_for, "a", name="first", **fields)
    for name, before in first.tensors("state").items():
        if "block-0000" not in name or name.endswith("/mean"):
            continue  # later blocks see other inputs, because the first one is pruned otherwise
        once, thrice = plain.tensors("state")[name], heavy.tensors("state")[name]
        torch.testing.assert_close(thrice - before, 3 * (once - before), rtol=1e-4, atol=1e-6)
    assert plain.weights() != heavy.weights()
    assert [stage["weight"] for stage in heavy.document()["holds"]["stages"]] == [1.0, 3.0]


def test_a_job_divides_what_is_new_and_says_by_how_much(request_for: Request) -> None:
    """Sums, survey and scale, over a job that continues a state that was never divided: a + b, then + c / 2."""
    fields: dict[str, Any] = {"sparsity": {"target": 0.5, "allocation": "error"}}
    heavy: dict[str, Any] = fields | {"method": {"name": "copal", "objective": "least_forgetting"}}
    plain: dict[str, Any] = fields | {"method": {"name": "copal"}}
    both, lone = (chain(request_for, part, name=part, **plain)[0] for part in ("ab", "c"))
    request = with_own_texts(request_for(domains="c", workspace="child", **heavy))
    child = run_job(continuing(both, request))
    (whole,) = chain(request_for, "ca", name="whole", **heavy)
    assert [stage.get("scale") for stage in child.document()["holds"]["stages"]] == [None, None, 0.5]
    assert [stage.get("scale") for stage in whole.document()["holds"]["stages"]] == [None, 0.5]
    looked_at = 0
    for name, before in both.tensors("state").items():
        if "block-0000" in name and name.endswith(("/second", "/outputs", "/curve")):
            expected = before + lone.tensors("state")[name] / 2
            torch.testing.assert_close(child.tensors("state")[name], expected)
            looked_at += 1
    assert looked_at == 4 + 2 * 7


def lineage(request_for: Request, weight: float, name: str, **fields: Any) -> Ran:
    request = request_for(domains="ab", **fields)
    request["domains"][1]["weight"] = weight
    (ran,) = chain(request_for, request["domains"], name=name, **fields)
    return ran


def test_weight_one_and_recency_one_change_no_bit(request_for: Request) -> None:
    said = lineage(request_for, 1.0, "said", method=ADMM | {"recency": 1.0})
    (unsaid,) = chain(request_for, "ab", name="unsaid", method=ADMM)
    assert said.weights() == unsaid.weights()
    assert said.states() == unsaid.states()


def test_least_forgetting_counts_what_was_learned_twice(request_for: Request) -> None:
    fields = [{"objective": "least_forgetting"}, {"recency": 2.0}, {}]
    runs = [
        chain(request_for, "ab", name=f"run-{number}", method=ADMM | each)[0] for number, each in enumerate(fields)
    ]
    assert runs[0].states() == runs[1].states()
    assert runs[0].weights() == runs[1].weights() != runs[2].weights()
    assert [run.report()["method"]["recency"] for run in runs] == [2.0, 2.0, 1.0]


@pytest.mark.parametrize("width", [5, 256, 600])
def test_float32_state_comes_back_bit_for_bit(tmp_path: Path, width: int) -> None:
    inputs = torch.randn(900, width) * torch.logspace(-6, 6, width)
    inputs[:, 3] = 0
    sums = summed([inputs, torch.randn(50, width)], [1.0, 0.7], 1.3)
    path = tmp_path / "block.safetensors"
    write_tensors(path, *state_content({"g": sums}, {}, precision=Precision.float32))
    back = read_state(path, CPU)["g"]
    assert back.gram is not None
    assert sums.gram is not None
    assert torch.equal(back.gram, sums.gram)
    for part in ("second", "shift", "mean"):
        assert torch.equal(getattr(back, part), getattr(sums, part))


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-6])
def test_float16_state_is_off_by_half_a_thousandth_of_a_correlation_at_most(size: float) -> None:
    """Of correlations that are this small, too: below half precision's normal range the last bit stays 2⁻²⁴."""
    inputs = torch.randn(400, 100) @ torch.randn(100, 100)
    gram = measured(inputs).gram
    gram = gram * size + gram.diagonal().diag() * (1 - size)
    root = gram.diagonal().double().sqrt()
    correlations = gram / root / root[:, None]
    off = (unpack(pack(gram, gram.diagonal()), gram.diagonal()) / root / root[:, None] - correlations).abs()
    # Half precision has eleven bits: half a unit of the last one, relative.
    assert bool((off <= correlations.abs() * 2**-11 + 2**-25).all())


def test_what_half_precision_costs_a_continued_job_is_small(request_for: Request) -> None:
    """The second stage's errors, solved on the first one's Grams as kept in either precision.

    In products that round nothing: rounded ones choose other masks after any change.
    """
    half, whole = (
        chain(request_for, "ab", name=kept, method=ADMM, numerics="exact", output={"state_precision": kept})[0]
        for kept in ("float16", "float32")
    )
    assert half.weights() != whole.weights()
    one, two = (ran.report()["stages"][1] for ran in (half, whole))
    for kind in ("relative_error", "held_out_error"):
        assert one[kind] == pytest.approx(two[kind], rel=0.005)
    assert half.output.summary.mean_perplexity == pytest.approx(whole.output.summary.mean_perplexity, rel=0.005)


@pytest.mark.parametrize("method", ["sparsegpt", "alps"])
def test_rounded_grams_of_inputs_that_dominate_together_are_solved_without_more_damping(
    method: str, tmp_path: Path
) -> None:
    """A few inputs a hundred times as large as the others that go together but for a hundredth."""
    inputs = torch.randn(800, 400)
    inputs[:, :6] = 100 * (torch.randn(800, 1) + 0.015 * inputs[:, :6])
    sums = accumulate(None, measured(inputs), keep_gram=True)
    tensors, metadata = state_content({"g": sums}, {})
    write_tensors(tmp_path / "state", tensors, metadata)
    back = read_state(tmp_path / "state", CPU)["g"]
    assert torch.equal(back.second, sums.second)
    assert methods.prepare(make_method(MethodName(method)), back).factor.notes == {}


def test_a_lineage_may_change_its_precision(request_for: Request) -> None:
    first = chain(request_for, "a", method=ADMM, output={"state_precision": "float32"})
    assert first[0].document()["holds"]["precision"] == "float32"
    grams = {tensor.dtype for name, tensor in first[0].tensors("state").items() if name.endswith("/gram")}
    assert grams == {torch.float32}
