"""Every reading of COPAL against its definition, token by token in float64."""

import itertools

import pytest
import torch
from torch import Tensor

from secateur.spec.method import Method, MethodName, Perturbation, Reading, Scope
from secateur.spec.sparsity import Pattern
from tests.specs import make_method
from worker.pruning.calibration.copal_sums import complete, find_copal_sums
from worker.pruning.methods.copal import GRADIENT_SUMS, response, response_power
from worker.pruning.methods.masks import Selection
from worker.pruning.methods.registry import Group, prepare, prepare_alone, scores, scores_alone, solve
from worker.pruning.model.graph import PrunableWeight
from worker.pruning.state.moments import Accumulated, Accumulator, accumulate, alone

ROWS, COLUMNS, LENGTH = 5, 6, 4
MATRIX = PrunableWeight("w", "w", ROWS, COLUMNS)
CPU = torch.device("cpu")
EVERY = list(itertools.product(Reading, Perturbation))
GRADIENTS = [reading for reading in Reading if reading is not Reading.own_terms]


def two_domains() -> list[Tensor]:
    """(windows, tokens, in) each, of different counts, sizes and means."""
    scale = torch.linspace(0.2, 3, COLUMNS)
    return [torch.randn(5, LENGTH, COLUMNS) * scale, torch.randn(3, LENGTH, COLUMNS) + scale.flip(0)]


def copal(reading: Reading, perturbation: Perturbation, scope: Scope = Scope.row) -> Method:
    return make_method(MethodName.copal, reading=reading, perturbation=perturbation, comparison_group=scope)


def sums_of(method: Method, dense: Tensor, domains: list[Tensor], weight: float = 1.0) -> Accumulated:
    """As the engine gathers them, in batches of two windows. weight: of every domain."""
    return gathered(method, dense, domains, weight)[0]


def gathered(
    method: Method, dense: Tensor, domains: list[Tensor], weight: float = 1.0
) -> tuple[Accumulated, Accumulated]:
    """The sums, and the last domain alone."""
    groups = [[MATRIX]]
    sums: Accumulated | None = None
    for windows in domains:
        before = {"w": sums} if sums is not None else {}
        copal_sums = find_copal_sums(groups, lambda _: method, before, windows.shape[1], lambda _: CPU)
        accumulator = Accumulator(COLUMNS, CPU)
        for batch in windows.split(2):
            accumulator.add(batch.reshape(-1, COLUMNS))
            if "w" in copal_sums and copal_sums["w"].by_token:
                accumulator.add_importance("w", copal_sums["w"].added(MATRIX, dense, batch))
        measured = complete(groups, {"w": accumulator.measured()}, copal_sums, lambda _: dense)["w"]
        last = alone(sums, measured)
        sums = accumulate(sums, measured, keep_gram=False, weight=weight)
    assert sums is not None
    return sums, last


def found(method: Method, dense: Tensor, domains: list[Tensor]) -> Tensor:
    return scores(method, "w", dense, Group(sums_of(method, dense, domains)))


def by_definition(reading: Reading, perturbation: Perturbation, dense: Tensor, domains: list[Tensor]) -> Tensor:
    """S, (out, in), float64: dx = x under the relative perturbation, with the factor 2 of dz = 2 W0 x in it."""
    dense, total = dense.double(), torch.zeros(ROWS, COLUMNS, dtype=torch.float64)
    means: list[Tensor] = []
    for windows in domains:
        shifts = perturbation is Perturbation.domain_shift and means
        earlier = torch.stack(means).mean(dim=0) if shifts else torch.zeros(COLUMNS).double()
        domain = torch.zeros_like(total)
        for window in windows.double():
            sample = torch.zeros_like(total)
            for x in window:
                dx = x - earlier
                gradient = torch.outer(dense @ dx + dense @ x, x)
                sample += gradient.abs() if reading is Reading.token else gradient
                if reading is Reading.fisher:
                    sample += gradient.square() - gradient
                if reading is Reading.own_terms:
                    sample += x.square() + dx.square() - gradient
            domain += sample.abs() if reading is Reading.sample else sample
        total += domain.abs() / windows[..., 0].numel()
        means.append(windows.double().mean(dim=(0, 1)))
    if reading is Reading.own_terms:
        return dense.square() * total
    return dense.abs() * (total.sqrt() if reading is Reading.fisher else total)


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize(("reading", "perturbation"), EVERY)
def test_a_reading_is_what_its_definition_says(reading: Reading, perturbation: Perturbation, scope: Scope) -> None:
    dense, domains = torch.randn(ROWS, COLUMNS), two_domains()
    method = copal(reading, perturbation, scope)
    expected = by_definition(reading, perturbation, dense, domains)
    if perturbation is Perturbation.relative and reading is not Reading.own_terms:
        expected /= 2
    sums = sums_of(method, dense, domains)
    sensitivity = scores(method, "w", dense, Group(sums))
    torch.testing.assert_close(sensitivity, expected.float(), rtol=1e-4, atol=1e-4)
    selection = Selection(Pattern(), scope, 15)
    mask = solve(method, "w", dense, sensitivity, prepare(method, sums), selection).mask
    assert torch.equal(mask, selection.mask(expected))


@pytest.mark.parametrize(("reading", "perturbation"), EVERY)
def test_a_domain_alone_is_what_it_adds_to_the_definition(reading: Reading, perturbation: Perturbation) -> None:
    """Whatever its weight, and whatever came before but for the mean that dx is away from."""
    dense, domains = torch.randn(ROWS, COLUMNS), two_domains()
    method = copal(reading, perturbation)
    both, first = (by_definition(reading, perturbation, dense, domains[:count]) for count in (2, 1))
    expected = (both.square() - first.square()).sqrt() if reading is Reading.fisher else both - first
    if perturbation is Perturbation.relative and reading is not Reading.own_terms:
        expected /= 2
    for weight in (1.0, 100.0):
        sums, last = gathered(method, dense, domains, weight)
        own = scores_alone(method, "w", dense, prepare_alone(method, last))
        torch.testing.assert_close(own, expected.float(), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(own, scores(method, "w", dense, Group(sums)), rtol=0.1)


def test_the_comparison_group_matters() -> None:
    dense, domains = torch.randn(ROWS, COLUMNS), two_domains()
    sensitivity = found(copal(Reading.token, Perturbation.relative), dense, domains)
    masks = [Selection(Pattern(), scope, 15).mask(sensitivity) for scope in Scope]
    assert not torch.equal(*masks)


def test_the_relative_token_reading_is_one_product_of_absolute_values_bit_for_bit() -> None:
    dense, domains = torch.randn(ROWS, COLUMNS), two_domains()
    parts = []
    for windows in domains:
        products = [
            (batch.flatten(0, 1) @ dense.T).abs().T @ batch.flatten(0, 1).abs() for batch in windows.split(2)
        ]
        parts.append(sum(products[1:], products[0]) / windows[..., 0].numel())
    expected = dense.abs() * (parts[1] + parts[0])
    assert torch.equal(found(copal(Reading.token, Perturbation.relative), dense, domains), expected)


@pytest.mark.parametrize("perturbation", list(Perturbation))
def test_the_later_the_absolute_value_the_smaller_the_sum(perturbation: Perturbation) -> None:
    dense, domains = torch.randn(ROWS, COLUMNS), two_domains()
    whole, sample, token = (
        found(copal(reading, perturbation), dense, domains)
        for reading in (Reading.dataset, Reading.sample, Reading.token)
    )
    assert bool((whole <= sample * (1 + 1e-5) + 1e-6).all())
    assert bool((sample <= token * (1 + 1e-5)).all())
    assert bool((whole < sample / 2).any())
    assert bool((sample < token / 2).any())


@pytest.mark.parametrize("perturbation", list(Perturbation))
def test_samples_of_one_token_are_tokens(perturbation: Perturbation) -> None:
    dense = torch.randn(ROWS, COLUMNS)
    single = [windows.reshape(-1, 1, COLUMNS) for windows in two_domains()]
    one, other = (
        found(copal(reading, perturbation), dense, single) for reading in (Reading.sample, Reading.token)
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("perturbation", list(Perturbation))
def test_a_dataset_of_one_window_is_a_sample(perturbation: Perturbation) -> None:
    dense = torch.randn(ROWS, COLUMNS)
    single = [windows.reshape(1, -1, COLUMNS) for windows in two_domains()]
    readings = (Reading.dataset, Reading.sample)
    one, other = (found(copal(reading, perturbation), dense, single) for reading in readings)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reading", GRADIENTS)
def test_every_domain_has_the_same_share_whatever_its_length(reading: Reading) -> None:
    """A domain said twice over in one go counts once; under the root of `fisher`, squares are what is counted."""
    dense, (first, second) = torch.randn(ROWS, COLUMNS), two_domains()
    method = copal(reading, Perturbation.relative)
    once, twice = found(method, dense, [first, second]), found(method, dense, [first, torch.cat([second] * 2)])
    torch.testing.assert_close(once, twice, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reading", list(Reading))
def test_scores_of_an_output_twice_as_large_are_four_times_as_high(reading: Reading) -> None:
    dense, domains = torch.randn(ROWS, COLUMNS), two_domains()
    method = copal(reading, Perturbation.domain_shift)
    assert method.squared_scores
    torch.testing.assert_close(found(method, 2 * dense, domains), 4 * found(method, dense, domains))


def test_without_shift_the_perturbations_of_the_first_domain_rank_alike() -> None:
    dense, domains = torch.randn(ROWS, COLUMNS), two_domains()[:1]
    for reading in GRADIENTS:
        one, other = (found(copal(reading, perturbation), dense, domains) for perturbation in Perturbation)
        torch.testing.assert_close(2 * one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("earlier", [None, torch.linspace(-1, 1, COLUMNS)])
def test_the_power_of_the_response_follows_from_the_moments(earlier: Tensor | None) -> None:
    dense, inputs = torch.randn(ROWS, COLUMNS), torch.randn(50, COLUMNS) + 1
    power = response_power(dense, inputs.T @ inputs / 50, inputs.mean(0), earlier)
    torch.testing.assert_close(power, response(dense, inputs, earlier).square().mean(0), rtol=1e-4, atol=1e-4)


def test_only_readings_of_single_tokens_or_windows_take_products_of_every_batch() -> None:
    assert set(GRADIENT_SUMS) == {Reading.token, Reading.sample, Reading.fisher}
