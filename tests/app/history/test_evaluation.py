import math
from datetime import UTC, datetime

import httpx
from sqlalchemy.orm import Session

from app.history.evaluation import NOT_DONE, matrix_of
from app.lineage.stages import History, Stage
from app.tables.jobs import JobEvaluation, JobTask
from tests.app.conftest import Inputs
from tests.app.lineage.lineages import publish, submit
from tests.records import task_result

R = {
    (0, "a"): 10.0,
    (0, "b"): 20.0,
    (1, "a"): 12.0,
    (1, "b"): 30.0,
    (2, "a"): 15.0,
    (2, "b"): 22.0,
}


def history(*domains: str, earlier: int = 0, lost: frozenset[str] = frozenset()) -> History:
    """A lineage whose first `earlier` stages are another job's."""
    stages = [
        Stage("job" if n >= earlier else "first", n - earlier if n >= earlier else n, n, domain, None)
        for n, domain in enumerate(domains)
    ]
    return History(tuple(stages), lost)


def entries(values: dict[tuple[int, str], float]) -> list[JobEvaluation]:
    return [
        JobEvaluation(
            job_id="job", row=row, domain=domain, perplexity=value, loss=math.log(value), windows=2, tokens=64,
            window_losses=[1.0], protocol={"text_sha256": domain}, at=datetime.now(UTC),
        )
        for (row, domain), value in values.items()
    ]  # fmt: skip


def test_r_and_what_follows_from_it() -> None:
    found = matrix_of("job", history("a", "b"), entries(R))
    assert found.domains == ["a", "b"]
    assert [(row.row, row.stage, row.after) for row in found.rows] == [(0, None, None), (1, 0, "a"), (2, 1, "b")]
    assert found.rows[2].perplexity == {"a": 15.0, "b": 22.0}
    assert found.bwt == 3.0
    assert found.log_bwt is not None
    assert math.isclose(found.log_bwt, math.log(15 / 12))
    assert found.mean_perplexity == 18.5
    assert found.protocols["b"] == {"text_sha256": "b", "windows": 2, "tokens": 64}


def test_tasks_that_a_published_job_says_nothing_of_were_not_done(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    job = submit(api, inputs.body(tasks=[{"name": "one"}, {"name": "two"}]))
    scores = task_result(1).model_dump(exclude={"type"})
    session.add(JobTask(job_id=job, task=1, model="dense", scores=scores, attempt=1))
    session.add(JobTask(job_id=job, task=1, model="pruned", scores=None, attempt=1))
    session.commit()

    def said() -> list[tuple[int, str, str | None]]:
        tasks = api.get(f"/v1/jobs/{job}/evaluation").json()["tasks"]
        return [(each["task"], each["model"], each["error"]) for each in tasks]

    assert said() == [(1, "dense", None)]
    publish(session, job)
    missing = [(0, "dense", NOT_DONE), (0, "pruned", NOT_DONE)]
    assert said() == [*missing, (1, "dense", None), (1, "pruned", NOT_DONE)]


def test_an_unfinished_r_has_no_figures() -> None:
    found = matrix_of("job", history("a", "b"), entries({key: value for key, value in R.items() if key[0] < 2}))
    assert (found.bwt, found.log_bwt, found.mean_perplexity) == (None, None, None)
    assert [row.row for row in found.rows] == [0, 1]
    empty = matrix_of("job", history("a", "b"), [])
    assert (empty.domains, empty.rows, empty.mean_perplexity) == ([], [], None)


def test_one_stage_forgets_nothing() -> None:
    found = matrix_of("job", history("a"), entries({(0, "a"): 10.0, (1, "a"): 12.0}))
    assert (found.bwt, found.mean_perplexity) == (None, 12.0)


def test_a_domain_without_evaluation_is_left_out() -> None:
    values = {(row, "b"): R[row, "b"] for row in range(3)} | {(3, "b"): 25.0}
    found = matrix_of("job", history("a", "b", "c"), entries(values))
    assert (found.domains, found.bwt, found.mean_perplexity) == (["b"], 3.0, 25.0)


def test_a_lineages_r_has_holes_where_a_domain_was_not_known_yet() -> None:
    values = {(0, "a"): 10.0, (1, "a"): 12.0, (0, "b"): 20.0, (2, "a"): 15.0, (2, "b"): 22.0}
    found = matrix_of("job", history("a", "b", earlier=1), entries(values))
    assert [row.perplexity for row in found.rows] == [
        {"a": 10.0, "b": 20.0},
        {"a": 12.0, "b": None},
        {"a": 15.0, "b": 22.0},
    ]
    assert [(row.job, row.stage, row.lineage_stage) for row in found.rows] == [
        (None, None, None),
        ("first", None, 0),
        ("job", 0, 1),
    ]
    assert (found.bwt, found.mean_perplexity) == (3.0, 18.5)


def test_a_domain_that_is_not_measured_any_more_is_left_out_of_the_figures() -> None:
    values = R | {(3, "b"): 25.0, (3, "c"): 8.0}
    lost = frozenset("a")
    found = matrix_of("job", history("a", "b", "c", earlier=2, lost=lost), entries(values))
    assert (found.not_measured, found.bwt, found.mean_perplexity) == (["a"], 3.0, 16.5)
    measured_before_it_was_lost = matrix_of(
        "job", history("a", "b", "c", earlier=2, lost=lost), entries(values | {(3, "a"): 16.0})
    )
    assert (measured_before_it_was_lost.not_measured, measured_before_it_was_lost.bwt) == ([], 3.5)
