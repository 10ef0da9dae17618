"""R, backward transfer and the goals, from perplexities made up."""

import math
from typing import Any

import pytest

from benchmarks.continual import line, matrices
from benchmarks.continual_figures import COLUMNS, goals, summarise
from benchmarks.continual_rows import ORDERS, choose

MADE = {"sparsity": 0.5, "seconds": 10.0, "state_bytes": 3 << 20, "peak_rss_bytes": 1}


def perplexity(*values: float) -> dict[str, float]:
    return dict(zip(COLUMNS, values, strict=True))


def summary(name: str, *stages: tuple[float, float, float]) -> dict[str, Any]:
    (row,) = choose(name)
    return summarise(row, [perplexity(*stage) for stage in stages], [MADE] * len(stages))


def final(mean: float, bwt: float = 0.0) -> dict[str, Any]:
    return {"final": perplexity(mean - 1, mean, mean + 1), "mean": mean, "bwt": bwt}


def test_backward_transfer_looks_at_each_stage_s_own_domain() -> None:
    found = summary("wanda/cwp", (70, 80, 60), (50, 75, 63), (54, 65, 66))
    assert found["mean"] == pytest.approx((54 + 65 + 66) / 3)
    assert found["bwt"] == pytest.approx(((66 - 60) + (54 - 50)) / 2)
    assert found["log_bwt"] == pytest.approx((math.log(66 / 60) + math.log(54 / 50)) / 2)
    assert (found["seconds"], found["state_bytes"]) == (30.0, 3 << 20)
    assert found["R"][1] == [50, 75, 63]


def test_a_joint_row_has_no_backward_transfer() -> None:
    found = summary("admm/joint", (50, 60, 70))
    assert found["bwt"] is None
    assert line("admm/joint", found) == "| admm/joint | 50.00 | 60.00 | 70.00 | 60.00 |  |  | 10 | 3.0 MiB |"
    assert "| admm/joint | all at once | 50.00 | 60.00 | 70.00 |" in matrices(
        {"admm/joint": found}, perplexity(1, 2, 3)
    )


def test_every_stage_is_a_line_of_r() -> None:
    found = {"wanda/pwc": summary("wanda/pwc", (1, 2, 3), (4, 5, 6), (7, 8, 9))}
    table = matrices(found, perplexity(10, 11, 12)).splitlines()
    assert table[2:] == [
        "| | dense | 10.00 | 11.00 | 12.00 |",
        "| wanda/pwc | ptb | 1.00 | 2.00 | 3.00 |",
        "| wanda/pwc | wikitext2 | 4.00 | 5.00 | 6.00 |",
        "| wanda/pwc | c4 | 7.00 | 8.00 | 9.00 |",
    ]


def everything(**means: float) -> dict[str, dict[str, Any]]:
    """All six orders of each setting; a joint ceiling of 57.5 for ADMM."""
    found = {f"{name}/{order}": final(mean) for name, mean in means.items() for order in ORDERS}
    return found | {"admm/joint": final(57.5)}


def test_goals_are_means_over_the_orders_and_the_worst_domain() -> None:
    found = everything(admm=57.9)
    found["admm/cpw"] = final(57.9) | {"final": perplexity(56.9, 57.9, 60.1)}
    ceiling, worst, absolute = goals(found)
    assert ceiling.value == pytest.approx(57.9 / 57.5)
    assert worst.value == pytest.approx(60.1 / 58.5)
    assert (ceiling.reached, worst.reached, absolute.reached) == (True, False, True)
    assert absolute.orders == 6
    assert absolute.line == "| admm: mean perplexity | 57.9 | < 58 | 6 | reached |"


def test_selection_is_compared_with_wanda_accumulated_and_restarted() -> None:
    found = everything(copal=81.0, wanda=80.9, **{"wanda:restart": 84.0})
    for order in ORDERS:
        found[f"copal/{order}"]["bwt"] = 1.0
        found[f"wanda:restart/{order}"]["bwt"] = 2.9
    by_name = {goal.name: goal for goal in goals(found)}
    assert by_name["copal: mean perplexity / accumulated wanda's"].reached
    forgetting = by_name["copal: BWT against a third of wanda restart's"]
    assert (forgetting.value, forgetting.reached) == (1.0, False)
    assert forgetting.limit == pytest.approx(2.9 / 3)


def test_protection_by_both_must_be_better_than_by_one() -> None:
    for both, reached in ((57.0, True), (57.9, False)):
        (goal,) = [
            g for g in goals(everything(admm=57.9, **{"copal+admm": both})) if "accumulated admm's" in g.name
        ]
        assert goal.reached is reached


def test_means_over_different_orders_are_not_compared() -> None:
    found = everything(wanda=80.0) | {"copal/wpc": final(70.0)}
    assert not any("wanda's" in goal.name for goal in goals(found))


def test_as_many_but_other_orders_are_not_compared() -> None:
    one, two = ORDERS[:2]
    found = {f"copal/{one}": final(70.0), f"wanda/{two}": final(80.0), f"wanda:restart/{two}": final(90.0)}
    found |= {f"copal+admm/{one}": final(57.0), f"admm/{two}": final(58.0)}
    assert {goal.name.partition(": ")[2] for goal in goals(found)} == {"mean perplexity"}
