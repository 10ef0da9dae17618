import pytest

from worker.pruning import UserError
from worker.pruning.budget import assign
from worker.pruning.patterns import Pattern
from worker.pruning.skeleton import Matrix
from worker.pruning.spec import Override, Sparsity

SHAPES = [(64, 64), (32, 64), (64, 128), (13, 17)]


def matrices(blocks: int = 3) -> list[Matrix]:
    return [
        Matrix(f"model.layers.{block}.part{i}.weight", f"part{i}", rows, columns, False)
        for block in range(blocks)
        for i, (rows, columns) in enumerate(SHAPES)
    ]


def override(match: str, target: float | None = None) -> Override:
    return Override(match, target, target is None, "/sparsity/overrides/0")


@pytest.mark.parametrize("target", [0.1, 0.333, 0.5, 0.7, 0.999])
def test_total_is_met_to_the_weight(target: float) -> None:
    shares = assign(matrices(), Sparsity(target, Pattern()))
    total = sum(matrix.weights for matrix in matrices())
    assert sum(share.zeros or 0 for share in shares.values()) == round(target * total)
    for share in shares.values():
        assert abs(share.target - target) <= 1 / share.matrix.weights


def test_overrides_keep_their_targets_and_the_others_make_up_for_them() -> None:
    shares = assign(matrices(), Sparsity(0.5, Pattern(), (override("*.part2.weight", 0.4),)))
    total = sum(matrix.weights for matrix in matrices())
    assert sum(share.zeros or 0 for share in shares.values()) == round(0.5 * total)
    for name, share in shares.items():
        if "part2" in name:
            assert abs(share.target - 0.4) <= 1 / share.matrix.weights
        else:
            assert share.target > 0.5


def test_skipped_weights_do_not_count() -> None:
    shares = assign(matrices(), Sparsity(0.5, Pattern(), (override("model.layers.0.*"),)))
    kept = [share for share in shares.values() if share.zeros is not None]
    assert len(kept) == len(matrices()) - len(SHAPES)
    assert sum(share.zeros or 0 for share in kept) == round(0.5 * sum(share.matrix.weights for share in kept))


def test_the_last_matching_override_counts() -> None:
    chosen = (override("*.part2.weight", 0.4), override("model.layers.0.*"))
    shares = assign(matrices(), Sparsity(0.5, Pattern(), chosen))
    assert shares["model.layers.0.part2.weight"].zeros is None
    assert shares["model.layers.1.part2.weight"].override == "*.part2.weight"


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        ((override("*.mlp.*", 0.4),), "unmatched_override"),
        ((override("*.part2.weight", 0.4), override("*")), "shadowed_override"),
        ((override("*"),), "nothing_to_prune"),
        ((override("*.part2.weight", 0.0), override("*.part0.weight", 0.0)), "impossible_budget"),
        ((override("*.part2.weight", 1.0), override("*.part0.weight", 1.0)), "impossible_budget"),
        ((override("*", 0.4),), "impossible_budget"),
    ],
)
def test_what_cannot_be_met_is_refused(overrides: tuple[Override, ...], code: str) -> None:
    with pytest.raises(UserError) as caught:
        assign(matrices(), Sparsity(0.5, Pattern(), overrides))
    assert caught.value.code == code
    assert (caught.value.field or "").startswith("/sparsity/overrides")


def test_every_matrix_overridden_with_the_target_itself_is_fine() -> None:
    shares = assign(matrices(), Sparsity(0.333, Pattern(), (override("*", 0.333),)))
    assert sum(share.zeros or 0 for share in shares.values()) == round(0.333 * sum(m.weights for m in matrices()))


def test_n_of_m_counts_and_widths() -> None:
    even = [matrix for matrix in matrices() if matrix.columns != 17]
    shares = assign(even, Sparsity(0.5, Pattern(2, 4)))
    assert all(share.zeros == share.matrix.weights // 2 for share in shares.values())
    with pytest.raises(UserError, match="17 inputs"):
        assign(matrices(), Sparsity(0.5, Pattern(2, 4)))
    assign(matrices(), Sparsity(0.5, Pattern(2, 4), (override("*.part3.weight"),)))
