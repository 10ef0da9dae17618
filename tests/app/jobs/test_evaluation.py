import math
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from app.jobs.evaluation import backward_transfer, matrix_of
from app.jobs.tables import JobEvaluation

R = {
    (0, "a"): 10.0,
    (0, "b"): 20.0,
    (1, "a"): 12.0,
    (1, "b"): 30.0,
    (2, "a"): 15.0,
    (2, "b"): 22.0,
}


def entries(values: dict[tuple[int, str], float]) -> list[JobEvaluation]:
    return [
        JobEvaluation(
            job_id="job", row=row, domain=domain, perplexity=value, loss=math.log(value), windows=2, tokens=64,
            window_losses=[1.0], protocol={"text_sha256": domain}, at=datetime.now(UTC),
        )
        for (row, domain), value in values.items()
    ]  # fmt: skip


def test_r_and_what_follows_from_it() -> None:
    found = matrix_of("job", ["a", "b"], entries(R))
    assert found.domains == ["a", "b"]
    assert [(row.row, row.stage, row.after) for row in found.rows] == [(0, None, None), (1, 0, "a"), (2, 1, "b")]
    assert found.rows[2].perplexity == {"a": 15.0, "b": 22.0}
    assert found.bwt == 3.0
    assert found.log_bwt is not None
    assert math.isclose(found.log_bwt, math.log(15 / 12))
    assert found.mean_final_perplexity == 18.5
    assert found.protocols["b"] == {"text_sha256": "b", "windows": 2, "tokens": 64}


def test_an_unfinished_r_has_no_figures() -> None:
    found = matrix_of("job", ["a", "b"], entries({key: value for key, value in R.items() if key[0] < 2}))
    assert (found.bwt, found.log_bwt, found.mean_final_perplexity) == (None, None, None)
    assert [row.row for row in found.rows] == [0, 1]
    empty = matrix_of("job", ["a", "b"], [])
    assert (empty.domains, empty.rows, empty.mean_final_perplexity) == ([], [], None)


def test_one_stage_forgets_nothing() -> None:
    found = matrix_of("job", ["a"], entries({(0, "a"): 10.0, (1, "a"): 12.0}))
    assert (found.bwt, found.mean_final_perplexity) == (None, 12.0)


def test_a_domain_without_evaluation_is_left_out() -> None:
    values = {(row, "b"): R[row, "b"] for row in range(3)} | {(3, "b"): 25.0}
    found = matrix_of("job", ["a", "b", "c"], entries(values))
    assert (found.domains, found.bwt, found.mean_final_perplexity) == (["b"], 3.0, 25.0)


@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=6))
def test_masks_that_do_not_move_neither_forget_nor_learn(perplexities: list[float]) -> None:
    names = [f"d{index}" for index in range(len(perplexities))]
    frozen = {
        (row, name): value
        for row in range(1, len(names) + 1)
        for name, value in zip(names, perplexities, strict=True)
    }
    assert backward_transfer(names, names, frozen) == 0
