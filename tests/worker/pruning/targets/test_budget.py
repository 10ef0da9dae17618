from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.spec.sparsity import Override, Pattern, Sparsity
from worker.pruning import UserError
from worker.pruning.model.graph import PrunableWeight
from worker.pruning.targets.budget import WeightTarget, assign, exact, rescale

SHAPES = [(64, 64), (32, 64), (64, 128), (13, 17)]


def matrices(blocks: int = 3) -> list[PrunableWeight]:
    return [
        PrunableWeight(f"model.layers.{block}.part{i}.weight", f"part{i}", rows, columns, False)
        for block in range(blocks)
        for i, (rows, columns) in enumerate(SHAPES)
    ]


def override(match: str, target: float | None = None, pattern: str | None = None) -> Override:
    return Override(
        match=match,
        target=target,
        pattern=Pattern.parse(pattern) if pattern else None,
        skip=True if target is None and pattern is None else None,
    )


def removed(shares: dict[str, WeightTarget]) -> int:
    return sum(share.zeros or 0 for share in shares.values())


def size(shares: dict[str, WeightTarget]) -> int:
    return sum(share.matrix.weights for share in shares.values() if share.zeros is not None)


@pytest.mark.parametrize("target", [0.1, 0.333, 0.5, 0.7, 0.999])
def test_total_is_met_to_the_weight(target: float) -> None:
    shares = assign(matrices(), Sparsity(target=target, pattern=Pattern()))
    total = sum(matrix.weights for matrix in matrices())
    assert sum(share.zeros or 0 for share in shares.values()) == round(target * total)
    for share in shares.values():
        assert abs(share.target - target) <= 1 / share.matrix.weights


def test_overrides_keep_their_targets_and_the_others_make_up_for_them() -> None:
    shares = assign(
        matrices(), Sparsity(target=0.5, pattern=Pattern(), overrides=(override("*.part2.weight", 0.4),))
    )
    total = sum(matrix.weights for matrix in matrices())
    assert sum(share.zeros or 0 for share in shares.values()) == round(0.5 * total)
    for name, share in shares.items():
        if "part2" in name:
            assert abs(share.target - 0.4) <= 1 / share.matrix.weights
        else:
            assert share.target > 0.5


def test_skipped_weights_do_not_count() -> None:
    shares = assign(matrices(), Sparsity(target=0.5, pattern=Pattern(), overrides=(override("model.layers.0.*"),)))
    kept = [share for share in shares.values() if share.zeros is not None]
    assert len(kept) == len(matrices()) - len(SHAPES)
    assert sum(share.zeros or 0 for share in kept) == round(0.5 * sum(share.matrix.weights for share in kept))


def test_the_last_matching_override_counts() -> None:
    chosen = (override("*.part2.weight", 0.4), override("model.layers.0.*"))
    shares = assign(matrices(), Sparsity(target=0.5, pattern=Pattern(), overrides=chosen))
    assert shares["model.layers.0.part2.weight"].zeros is None
    assert shares["model.layers.0.part2.weight"].overrides == ("model.layers.0.*",)
    assert shares["model.layers.1.part2.weight"].overrides == ("*.part2.weight",)
    assert shares["model.layers.1.part1.weight"].overrides == ()


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        ((override("*.mlp.*", 0.4),), "unmatched_override"),
        ((override("*.part2.weight", 0.4), override("*")), "shadowed_override"),
        ((override("*"),), "nothing_to_prune"),
        ((override("*.part2.weight", 0.0), override("*.part0.weight", 0.0)), "impossible_budget"),
        ((override("*.part2.weight", 0.999), override("*.part0.weight", 0.999)), "impossible_budget"),
        ((override("*", 0.4),), "impossible_budget"),
    ],
)
def test_what_cannot_be_met_is_refused(overrides: tuple[Override, ...], code: str) -> None:
    with pytest.raises(UserError) as caught:
        assign(matrices(), Sparsity(target=0.5, pattern=Pattern(), overrides=overrides))
    assert caught.value.code == code
    assert (caught.value.field or "").startswith("/sparsity/overrides")


def test_every_matrix_overridden_with_the_target_itself_is_fine() -> None:
    shares = assign(matrices(), Sparsity(target=0.333, pattern=Pattern(), overrides=(override("*", 0.333),)))
    assert sum(share.zeros or 0 for share in shares.values()) == round(0.333 * sum(m.weights for m in matrices()))


def test_n_of_m_counts_and_widths() -> None:
    even = [matrix for matrix in matrices() if matrix.columns != 17]
    shares = assign(even, Sparsity(target=0.5, pattern=Pattern(2, 4)))
    assert all(share.zeros == share.matrix.weights // 2 for share in shares.values())
    with pytest.raises(UserError, match="17 inputs"):
        assign(matrices(), Sparsity(target=0.5, pattern=Pattern(2, 4)))
    assign(matrices(), Sparsity(target=0.5, pattern=Pattern(2, 4), overrides=(override("*.part3.weight"),)))


def test_what_would_be_possible_is_said() -> None:
    total = sum(matrix.weights for matrix in matrices())
    large = sum(matrix.weights for matrix in matrices() if "part2" in matrix.name)
    with pytest.raises(UserError) as caught:
        assign(matrices(), Sparsity(target=0.9, pattern=Pattern(), overrides=(override("*.part2.weight", 0.2),)))
    needed = (0.9 * total - 0.2 * large) / (total - large)
    assert f"a sparsity of {needed:.4f}" in caught.value.message
    assert f"from {0.2 * large / total:.4f} to {1 - 0.8 * large / total:.4f}" in caught.value.message
    with pytest.raises(UserError, match=r"sparsity of 0\.4000 in all"):
        assign(matrices(), Sparsity(target=0.5, pattern=Pattern(), overrides=(override("*", 0.4),)))


def test_a_matrix_with_a_pattern_keeps_its_zeros_and_the_free_ones_absorb_the_rest() -> None:
    shares = assign(
        matrices(), Sparsity(target=0.6, pattern=Pattern(), overrides=(override("*.part2.weight", pattern="2:4"),))
    )
    assert removed(shares) == round(0.6 * size(shares))
    for name, share in shares.items():
        if "part2" in name:
            assert (share.zeros, share.pattern, share.fixed) == (share.matrix.weights // 2, Pattern(2, 4), True)
        else:
            assert (share.pattern, share.fixed) == (Pattern(), False)
            assert share.target > 0.6


def test_beside_a_global_pattern_the_total_is_what_it_comes_to() -> None:
    chosen = (
        override("*.part3.weight", 0.3, "unstructured"),
        override("*.part0.weight", pattern="1:4"),
        override("*.0.part1.weight"),
    )
    shares = assign(matrices(), Sparsity(target=0.5, pattern=Pattern(2, 4), overrides=chosen))
    assert {str(share.pattern) for share in shares.values()} == {"2:4", "1:4", "unstructured"}
    assert shares["model.layers.0.part0.weight"].zeros == 64 * 64 * 3 // 4
    assert shares["model.layers.0.part2.weight"].zeros == 64 * 128 // 2
    assert shares["model.layers.0.part3.weight"].zeros == round(0.3 * 13 * 17)
    assert shares["model.layers.0.part1.weight"].zeros is None


def test_an_override_whose_pattern_does_not_fit_is_pointed_at() -> None:
    with pytest.raises(UserError) as caught:
        assign(
            matrices(),
            Sparsity(target=0.5, pattern=Pattern(), overrides=(override("*.part3.weight", pattern="2:4"),)),
        )
    assert (caught.value.code, caught.value.field) == ("pattern_does_not_fit", "/sparsity/overrides/0/pattern")


@given(
    st.integers(0, 1000).map(lambda parts: parts / 1000),
    st.lists(st.floats(-0.5, 1.5), min_size=len(SHAPES) * 3, max_size=len(SHAPES) * 3),
    st.booleans(),
)
def test_rates_of_an_allocation_are_met_to_the_weight(target: float, wanted: list[float], mixed: bool) -> None:
    target = min(max(target, 0.2), 0.8)  # what the fixed ones leave possible
    chosen = (override("*.part1.weight", 0.4), override("*.0.part2.weight", pattern="2:4")) if mixed else ()
    rates = dict(zip((matrix.name for matrix in matrices()), wanted, strict=True))
    shares = assign(matrices(), Sparsity(target=target, pattern=Pattern(), overrides=chosen), rates)
    assert removed(shares) == round(exact(target) * size(shares))
    free = [share for share in shares.values() if not share.fixed]
    assert all(0 <= (share.zeros or 0) <= share.matrix.weights for share in shares.values())
    for one in free:
        for two in free:
            if rates[one.matrix.name] >= rates[two.matrix.name]:
                assert one.target >= two.target - 1 / one.matrix.weights - 1 / two.matrix.weights
    for share in shares.values():
        if "part1" in share.matrix.name and mixed:
            assert abs(share.target - 0.4) <= 1 / share.matrix.weights


def test_rates_that_already_sum_to_the_target_only_get_rounded() -> None:
    rates = {matrix.name: (0.4 if ".0." in matrix.name else 0.55) for matrix in matrices()}
    shares = assign(matrices(), Sparsity(target=0.5, pattern=Pattern()), rates)
    for name, share in shares.items():
        assert abs((share.zeros or 0) - rates[name] * share.matrix.weights) <= 1


def test_rescaling_shrinks_sparsities_or_densities_by_one_factor() -> None:
    rates, weights = {"a": Fraction(1, 2), "b": Fraction(1, 4)}, {"a": 100, "b": 100}
    assert rescale(rates, weights, Fraction(60)) == {"a": 40, "b": 20}
    # Densities 50 and 75 shrink to 40 and 60.
    assert rescale(rates, weights, Fraction(100)) == {"a": 60, "b": 40}
    assert rescale(rates, weights, Fraction(0)) == {"a": 0, "b": 0}
    assert rescale(rates, weights, Fraction(200)) == weights
    assert rescale({"a": Fraction(0)}, {"a": 10}, Fraction(3)) == {"a": 3}


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), None])
def test_every_free_matrix_needs_a_rate(rate: float | None) -> None:
    rates = {matrix.name: 0.5 for matrix in matrices()}
    if rate is None:
        del rates["model.layers.1.part0.weight"]
    else:
        rates["model.layers.1.part0.weight"] = rate
    with pytest.raises(ValueError, match=r"model\.layers\.1\.part0"):
        assign(matrices(), Sparsity(target=0.5, pattern=Pattern()), rates)
    assign(
        matrices(),
        Sparsity(target=0.5, pattern=Pattern(), overrides=(override("model.layers.1.part0.weight", 0.5),)),
        rates,
    )
