"""When the scores of two jobs are of one unit."""

from typing import Any

import pytest

from app.comparison.scores import Scored, same_scores
from secateur.spec.method import Reading
from secateur.spec.records.history import Basis


def spec(*domains: str, weight: float = 1.0, **method: Any) -> dict[str, Any]:
    """A resolved spec; weight: of its last domain."""
    named = [{"name": name, "weight": 1.0} for name in domains]
    named[-1]["weight"] = weight
    return {"method": {"name": "copal", "mode": "accumulated", "objective": "mean", **method}, "domains": named}


def scored(*path: dict[str, Any], stage: int | None = None) -> Scored:
    return Scored(path, len(path[-1]["domains"]) - 1 if stage is None else stage)


LAW = scored(spec("law"))


@pytest.mark.parametrize(
    ("solver", "other", "expected"),
    [
        ("wanda", "wanda+admm", True),
        ("wanda", "admm", True),
        ("alps", "admm", True),
        ("copal", "copal+admm", True),
        ("copal+admm", "copal+admm:searched", True),
        ("copal", "wanda", False),
        ("sparsegpt", "wanda", False),
        ("magnitude", "wanda", False),
        ("copal", None, False),
        (None, None, False),
    ],
)
def test_what_follows_the_selection_does_not_count(solver: str | None, other: str | None, expected: bool) -> None:
    assert same_scores(LAW, LAW, solver, other) is expected
    assert same_scores(LAW, LAW, other, solver) is expected


def test_copals_readings_and_perturbations_are_units_of_their_own() -> None:
    readings = [scored(spec("law", reading=each.value)) for each in Reading]
    for number, one in enumerate(readings):
        assert [same_scores(one, other, "copal", "copal") for other in readings] == [
            number == index for index in range(len(readings))
        ]
        assert all(same_scores(one, other, "wanda", "wanda") for other in readings), "an override's"
    relative = scored(spec("law", perturbation="relative"))
    assert not same_scores(LAW, relative, "copal", "copal")
    plain = scored(spec("law", name="wanda"))
    assert same_scores(LAW, plain, "copal", "copal"), "an override's has the defaults"


@pytest.mark.parametrize("solver", ["copal", "wanda", "sparsegpt"])
def test_sums_are_of_the_same_domains_with_the_same_factors(solver: str) -> None:
    both = scored(spec("law", "code"))

    def same(*path: dict[str, Any], stage: int | None = None) -> bool:
        return same_scores(both, scored(*path, stage=stage), solver, solver)

    assert same(spec("law"), spec("code"))
    assert same(spec("law", "code", "poems"), stage=1)
    assert same(spec("law", objective="least_forgetting"), spec("code")), "nothing was there to be multiplied"
    for path in (
        [spec("law")],
        [spec("law", "poems")],
        [spec("law", "code", "poems")],
        [spec("law", "code", weight=2.0)],
        [spec("law", "code", recency=0.5)],
        [spec("law"), spec("code", objective="least_forgetting")],
    ):
        assert not same(*path), path
    assert same_scores(
        scored(spec("law"), spec("code", recency=2.0)),
        scored(spec("law"), spec("code", objective="least_forgetting")),
        solver,
        solver,
    )


def test_the_order_counts_where_a_domain_is_measured_against_the_earlier_ones() -> None:
    one, other = scored(spec("law", "code")), scored(spec("code", "law"))
    assert same_scores(one, other, "wanda", "wanda")
    assert not same_scores(one, other, "copal", "copal")
    relative = [scored(spec(*names, perturbation="relative")) for names in (("law", "code"), ("code", "law"))]
    assert same_scores(*relative, "copal", "copal")


def test_without_sums_only_the_stages_own_domain_counts() -> None:
    restart = [scored(spec(*names, mode="restart")) for names in (("law", "code"), ("poems", "code"))]
    assert same_scores(*restart, "copal", "copal")
    assert same_scores(restart[0], scored(spec("code")), "copal", "copal")
    later = scored(spec("law", "code", mode="sequential"))
    assert not same_scores(restart[0], later, "magnitude", "magnitude"), "of weights that are pruned already"
    assert same_scores(scored(spec("law", mode="sequential")), LAW, "wanda", "wanda")


def test_a_domains_own_scores_are_of_one_unit_in_every_stage() -> None:
    own = [
        Scored([spec("law", "code", recency=0.5, weight=3.0)], 1, Basis.domain),
        Scored([spec("poems")], 0, Basis.domain),
    ]
    assert same_scores(*own, "copal", "copal+admm")
    assert not same_scores(*own, "copal", "wanda")
    relative = Scored([spec("poems", perturbation="relative")], 0, Basis.domain)
    assert not same_scores(own[0], relative, "copal", "copal")


def test_magnitudes_know_no_domain() -> None:
    assert same_scores(LAW, scored(spec("poems", "code")), "magnitude", "magnitude+admm")


def test_sparsegpts_scores_are_of_its_damping() -> None:
    damped = [scored(spec("law", name="sparsegpt", sparsegpt={"damping": each})) for each in (0.01, 0.1)]
    assert not same_scores(*damped, "sparsegpt", "sparsegpt")
    assert same_scores(damped[0], scored(spec("law", name="auto")), "sparsegpt", "sparsegpt")
