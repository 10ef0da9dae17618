import pytest
import torch

from worker.pruning.state.moments import Accumulator, Measured, accumulate, relative_error

CPU = torch.device("cpu")


def measured(inputs: torch.Tensor) -> Measured:
    accumulator = Accumulator(inputs.shape[1], CPU)
    for part in inputs.split(7):
        accumulator.add(part)
    return accumulator.measured()


def test_sums_are_per_token_so_that_long_domains_do_not_outvote_short_ones() -> None:
    long, short = torch.randn(200, 5), torch.randn(20, 5)
    sums = accumulate(None, measured(long), keep_gram=True)
    sums = accumulate(sums, measured(short), keep_gram=True)
    assert sums.gram is not None
    torch.testing.assert_close(sums.gram, long.T @ long / 200 + short.T @ short / 20)
    torch.testing.assert_close(sums.mean, long.mean(0) + short.mean(0))
    assert (sums.domains, sums.tokens) == (2, 220)


@pytest.mark.parametrize("width", [5, 256, 600])
def test_gram_is_whole_and_symmetric(width: int) -> None:
    inputs = torch.randn(100, width)
    gram = measured(inputs).gram
    torch.testing.assert_close(gram, inputs.T @ inputs / 100, rtol=1e-4, atol=1e-5)
    assert torch.equal(gram, gram.T)


def test_gram_of_the_first_tokens_leaves_the_moments_those_of_all() -> None:
    inputs = torch.randn(100, 6)
    accumulator = Accumulator(6, CPU, gram_tokens=20)
    for part in inputs.split(7):
        accumulator.add(part)
    found, first = accumulator.measured(), inputs[:21]  # whole batches
    torch.testing.assert_close(found.gram, first.T @ first / 21)
    torch.testing.assert_close(found.second, inputs.square().mean(0))
    torch.testing.assert_close(found.mean, inputs.mean(0))
    assert found.tokens == 100


def test_moments_need_no_gram() -> None:
    inputs = torch.randn(10, 3)
    accumulator = Accumulator(3, CPU, gram_tokens=0)
    accumulator.add(inputs)
    found = accumulator.measured()
    assert found.finite
    assert not found.gram.any()
    torch.testing.assert_close(found.second, inputs.square().mean(0))
    accumulator = Accumulator(3, CPU, gram_tokens=0)
    accumulator.add(inputs * torch.inf)
    assert not accumulator.measured().finite


def test_adding_a_domain_leaves_the_earlier_sums_alone() -> None:
    first = accumulate(None, measured(torch.randn(30, 4)), keep_gram=True)
    assert first.gram is not None
    before = first.gram.clone()
    accumulate(first, measured(torch.randn(30, 4)), keep_gram=True)
    assert torch.equal(first.gram, before)


def test_relative_error_is_that_of_the_outputs() -> None:
    for width in (1, 3, 4, 33):
        inputs, dense = torch.randn(50, width), torch.randn(7, width)
        weight = torch.where(torch.rand(7, width) < 0.5, dense, 0)
        expected = (inputs @ (weight - dense).T).square().sum() / (inputs @ dense.T).square().sum()
        assert relative_error(weight, dense, inputs.T @ inputs) == pytest.approx(float(expected), rel=1e-5)


def test_relative_error_of_large_inputs_does_not_overflow() -> None:
    inputs, dense = torch.randn(50, 8), torch.randn(7, 8) * 1e10
    gram = inputs.T @ inputs
    assert relative_error(dense / 2, dense, gram * 1e20) == pytest.approx(0.25, rel=1e-5)


def test_relative_error_of_outputs_that_are_all_zero_is_unknown() -> None:
    assert relative_error(torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(3, 3)) is None
