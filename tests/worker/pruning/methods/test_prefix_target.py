"""Targets behind the dense prefix, against the tokens themselves."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from worker.pruning.methods.prefix_target import DAMPING, SHARES, find_map, prefix_target
from worker.pruning.state.moments import Accumulated, Measured, accumulate

WIDTH, TOKENS = 24, 400


class Tokens(NamedTuple):
    """x: behind the pruned prefix; y: behind the dense one; both (tokens, in)."""

    x: Tensor
    y: Tensor

    def measured(self) -> Measured:
        count, gap = len(self.x), self.y - self.x
        return Measured(
            gram=self.x.T @ self.x / count,
            mean=self.x.mean(dim=0),
            tokens=count,
            importance={},
            cross=gap.T @ self.x / count,
            gap=gap.T @ gap / count,
        )


def summed(tokens: Tokens) -> Accumulated:
    return accumulate(None, tokens.measured(), keep_gram=True)


def linear(moved: Tensor, seed: int) -> Tokens:
    """Inputs of different sizes, the last of which never fires behind the pruned prefix, and y = x + moved · x."""
    torch.manual_seed(seed)
    x = torch.randn(TOKENS, WIDTH) @ torch.randn(WIDTH, WIDTH) * torch.logspace(-2, 2, WIDTH)
    x[:, -1] = 0
    return Tokens(x, x + x @ moved.T)


@pytest.fixture
def moved() -> Tensor:
    return 0.1 * torch.randn(WIDTH, WIDTH)


def test_the_map_is_the_damped_regression_of_the_gap_on_the_inputs(moved: Tensor) -> None:
    """A ridge that counts every input by its norm, solved by rows appended to the tokens."""
    tokens = linear(moved, 1)
    measured = tokens.measured()
    assert measured.cross is not None
    found = find_map(measured.gram, measured.cross)
    norms = measured.gram.diagonal().sqrt().double()
    rows = torch.cat([tokens.x.double() / TOKENS**0.5, (DAMPING**0.5) * norms.diag()])[:, :-1]
    gaps = torch.cat([(tokens.y - tokens.x).double() / TOKENS**0.5, torch.zeros(WIDTH, WIDTH)])
    expected = torch.linalg.lstsq(rows, gaps).solution.T
    torch.testing.assert_close(found[:, :-1].double(), expected, rtol=1e-3, atol=1e-5)
    assert not found[:, -1].any()


def test_the_share_is_the_one_that_is_nearest_to_the_dense_model_on_the_windows_held_out(moved: Tensor) -> None:
    solved_on, held_out = linear(moved, 1), linear(moved, 2)
    dense = torch.randn(8, WIDTH)
    target = prefix_target(summed(solved_on), held_out.measured(), [dense])
    assert target is not None
    wanted = held_out.y @ dense.T

    def left(share: float) -> float:
        weight = dense + share * dense @ target.map
        return float((held_out.x @ weight.T - wanted).square().sum())

    assert target.share == min((0.0, *SHARES), key=left)
    assert target.share > 0
    notes = target.notes(dense, dense)
    assert notes["closed"] == pytest.approx(1 - left(target.share) / left(0), rel=1e-3)
    assert notes["gap"] == pytest.approx(left(0) / float(wanted.square().sum()), rel=1e-3)
    torch.testing.assert_close(target.of(dense), dense + target.share * dense @ target.map)


def test_a_record_has_the_error_of_the_weight_towards_the_dense_model(moved: Tensor) -> None:
    solved_on, held_out = linear(moved, 1), linear(moved, 2)
    dense = torch.randn(8, WIDTH)
    weight = torch.where(torch.rand(8, WIDTH) < 0.5, dense, 0.0)
    target = prefix_target(summed(solved_on), held_out.measured(), [dense])
    assert target is not None
    wanted = held_out.y @ dense.T
    expected = (held_out.x @ weight.T - wanted).square().sum() / wanted.square().sum()
    assert target.notes(dense, weight)["error"] == pytest.approx(float(expected), rel=1e-3)


def test_a_gap_that_the_inputs_do_not_tell_is_left_alone() -> None:
    """What a few tokens seem to tell of it does not hold for others."""

    def noise(seed: int) -> Tokens:
        torch.manual_seed(seed)
        x = torch.randn(30, WIDTH)
        return Tokens(x, x + torch.randn(30, WIDTH))

    dense = torch.randn(8, WIDTH)
    target = prefix_target(summed(noise(1)), noise(2).measured(), [dense])
    assert target is not None
    assert target.share == 0
    assert target.of(dense) is dense
    assert target.notes(dense, dense)["closed"] == 0


def test_without_a_gap_the_target_is_the_dense_weight(moved: Tensor) -> None:
    x = linear(moved, 1).x
    dense = torch.randn(8, WIDTH)
    target = prefix_target(summed(Tokens(x, x)), Tokens(x, x).measured(), [dense])
    assert target is not None
    assert target.of(dense) is dense
    assert target.notes(dense, dense) == {"share": 0.0, "closed": 0.0, "gap": 0.0, "error": 0.0}


def test_inputs_that_were_not_compared_have_no_target(moved: Tensor) -> None:
    measured = linear(moved, 1).measured()
    plain = Measured(measured.gram, measured.mean, measured.tokens, {})
    assert prefix_target(accumulate(None, plain, keep_gram=True), plain, [torch.randn(8, WIDTH)]) is None


def test_sums_over_domains_are_of_all_their_tokens(moved: Tensor) -> None:
    one, two = linear(moved, 1), linear(moved, 2)
    both = Tokens(torch.cat([one.x, two.x]), torch.cat([one.y, two.y]))
    sums = accumulate(summed(one), two.measured(), keep_gram=True)
    assert sums.gram is not None
    assert sums.cross is not None
    whole = both.measured()
    assert whole.cross is not None
    torch.testing.assert_close(
        find_map(sums.gram, sums.cross), find_map(whole.gram, whole.cross), rtol=1e-3, atol=1e-5
    )
