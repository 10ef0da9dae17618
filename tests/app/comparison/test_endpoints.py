from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from app.comparison.evaluation import side_by_side
from app.jobs.schemas import EvaluationRead
from app.tables.jobs import Job
from app.tables.models import Model
from secateur.spec.records.history import Basis
from tests.app.conftest import Inputs
from tests.histories import evaluate, fill, matrix_of
from tests.jobs import make_model

OURS = {0: {"law": 8.0, "code": 4.0}, 1: {"law": 9.0, "code": 6.0}, 2: {"law": 10.0, "code": 5.0}}
THEIRS = {0: {"law": 8.0, "code": 4.0}, 1: {"law": 12.0, "code": 6.0}, 2: {"law": 9.5, "code": 4.5}}
DIFFERENT = {"sparsity": 0.75, "relative_error": None, "mask_sha256": "d" * 64, "weights_sha256": "e" * 64}


@pytest.fixture
def pair(api: httpx.Client, inputs: Inputs, session: Session) -> tuple[str, str]:
    """Two jobs of two finished stages each. In the second one's last stage a matrix has another mask, one another
    solver and other weights, and all sensitivities are four times those of the first one's."""
    first, second = (str(api.post("/v1/jobs", json=inputs.body()).json()["id"]) for _ in range(2))
    changed = {
        matrix_of(0, "down_proj"): DIFFERENT,
        matrix_of(1, "q_proj"): {"solver": "sparsegpt", "weights_sha256": "e" * 64},
        matrix_of(1, "down_proj"): {"solver": "wanda+admm"},
    }
    for stage, domain in enumerate(("law", "code")):
        fill(session, first, stage, domain=domain)
        fill(session, second, stage, domain=domain, scale=4.0, changed=changed if stage else None)
    evaluate(session, first, OURS)
    evaluate(session, second, THEIRS)
    return first, second


def compare(api: httpx.Client, pair: tuple[str, str], **query: Any) -> dict[str, Any]:
    response = api.get(f"/v1/jobs/{pair[0]}/compare/{pair[1]}", params=query)
    assert response.status_code == 200, response.text
    return dict(response.json())


def refusal(api: httpx.Client, pair: tuple[str, str], **query: Any) -> dict[str, Any]:
    response = api.get(f"/v1/jobs/{pair[0]}/compare/{pair[1]}", params=query)
    assert (response.status_code, response.json()["code"]) == (409, "not_comparable")
    return dict(response.json())


def two(job: float | None, other: float | None) -> dict[str, Any]:
    difference = None if job is None or other is None else other - job
    figures = {"job": job, "other": other, "difference": difference}
    return {name: None if value is None else pytest.approx(value) for name, value in figures.items()}


def test_both_matrices_r_are_set_side_by_side(api: httpx.Client, pair: tuple[str, str]) -> None:
    found = compare(api, pair)["evaluation"]
    assert (found["domains"], found["only_job"], found["only_other"]) == (["law", "code"], [], [])
    assert [(row["row"], row["after"], row["other_after"]) for row in found["rows"]] == [
        (0, None, None),
        (1, "law", "law"),
        (2, "code", "code"),
    ]
    for row in found["rows"]:
        for domain, figures in row["perplexity"].items():
            assert figures == two(OURS[row["row"]][domain], THEIRS[row["row"]][domain])
    assert found["mean_perplexity"] == two(7.5, 7.0)
    assert found["bwt"] == two(1.0, -2.5)
    assert found["log_bwt"]["difference"] < 0


def test_domains_of_one_job_alone_are_left_out(
    api: httpx.Client, pair: tuple[str, str], inputs: Inputs, session: Session
) -> None:
    domains = [{"name": name, "dataset": inputs.first} for name in ("code", "poems")]
    third = str(api.post("/v1/jobs", json=inputs.body(domains=domains)).json()["id"])
    evaluate(session, third, {0: {"code": 4.0, "poems": 1.0}, 1: {"code": 5.0}})
    found = compare(api, (pair[0], third), part="evaluation")
    assert found["history"] is None
    found = found["evaluation"]
    assert (found["domains"], found["only_job"], found["only_other"]) == (["code"], ["law"], ["poems"])
    assert [row["perplexity"]["code"] for row in found["rows"]] == [two(4.0, 4.0), two(6.0, 5.0), two(5.0, None)]
    # The third one has not got to its end, and the BWTs would be over different domains.
    assert found["mean_perplexity"] == two(5.0, None)
    assert found["bwt"] == found["log_bwt"] == two(None, None)


def test_other_protocols_are_refused_and_named(
    api: httpx.Client, inputs: Inputs, pair: tuple[str, str], session: Session
) -> None:
    third = str(api.post("/v1/jobs", json=inputs.body()).json()["id"])
    evaluate(session, third, OURS, sequence_length=64, dtype="bfloat16")
    fill(session, third, 0, domain="law")
    body = refusal(api, (pair[0], third))
    assert {error["detail"] for error in body["errors"]} == {
        f"{domain}: {difference}"
        for domain in ("law", "code")
        for difference in (
            "sequence_length is 32 here and 64 there",
            "dtype is float32 here and bfloat16 there",
        )
    }
    # Their matrices compare all the same.
    assert compare(api, (pair[0], third), part="history")["evaluation"] is None


def test_windows_behind_a_prefix_are_not_those_without(
    api: httpx.Client, inputs: Inputs, pair: tuple[str, str], session: Session
) -> None:
    """Older protocols do not speak of it: their windows had none, and their documents were joined."""
    third = str(api.post("/v1/jobs", json=inputs.body()).json()["id"])
    evaluate(session, third, OURS, prefix=[2], documents="separate")
    fill(session, third, 0, domain="law")
    details = {error["detail"] for error in refusal(api, (pair[0], third))["errors"]}
    assert "law: prefix is [] here and [2] there" in details
    assert "law: documents is joined here and separate there" in details
    fourth = str(api.post("/v1/jobs", json=inputs.body()).json()["id"])
    evaluate(session, fourth, OURS, prefix=[], documents="joined")
    fill(session, fourth, 0, domain="law")
    assert compare(api, (pair[0], fourth), part="evaluation")["evaluation"]["domains"] == ["law", "code"]


def test_jobs_without_a_common_domain_are_refused(api: httpx.Client, pair: tuple[str, str], job: str) -> None:
    body = refusal(api, (pair[0], job), part="evaluation")
    assert body["errors"][0]["detail"] == "no domain is evaluated by both: law, code here, none there"


def test_matrices_are_compared_one_by_one(api: httpx.Client, pair: tuple[str, str]) -> None:
    found = compare(api, pair, part="history")["history"]
    assert found["job"] == found["other"] == {"stage": 1, "domain": "code"}
    rows = {row["matrix"]: row for row in found["matrices"]["data"]}
    assert list(rows) == [matrix_of(block, name) for block in range(3) for name in ("down_proj", "q_proj")]
    assert found["sensitivity_basis"] == "domain"
    for number, row in enumerate(rows.values(), start=1):
        assert row["sensitivity_share"] == two(number / 21, number / 21)
    plain = rows[matrix_of(2, "q_proj")]
    assert (plain["same_mask"], plain["same_weights"], plain["weights"], plain["block"]) == (True, True, 4, 2)
    assert (plain["sparsity"], plain["relative_error"]) == (two(0.5, 0.5), two(0.1, 0.1))
    assert plain["held_out_error"] == two(None, None)
    assert plain["sensitivity_mean"] == two(6 / 4, 24 / 4)
    masked = rows[matrix_of(0, "down_proj")]
    assert (masked["same_mask"], masked["same_weights"]) == (False, False)
    assert (masked["sparsity"], masked["relative_error"]) == (two(0.5, 0.75), two(0.1, None))
    solved = rows[matrix_of(1, "q_proj")]
    assert (solved["same_mask"], solved["same_weights"]) == (True, False)
    assert (solved["solver"], solved["other_solver"]) == ("admm", "sparsegpt")
    # Scores of two formulas have no common unit.
    assert solved["sensitivity_mean"] == {"job": 1.0, "other": 4.0, "difference": None}
    # ADMM begins with Wanda's.
    begun = rows[matrix_of(1, "down_proj")]
    assert (begun["solver"], begun["other_solver"]) == ("admm", "wanda+admm")
    assert begun["sensitivity_mean"] == two(3 / 8, 12 / 8)


def test_means_of_other_sums_are_not_subtracted(
    api: httpx.Client, pair: tuple[str, str], inputs: Inputs, session: Session
) -> None:
    """The same solver's, under another recency. A domain's own are of one unit."""
    method = {"name": "copal", "objective": "least_forgetting"}
    third = str(api.post("/v1/jobs", json=inputs.body(method=method)).json()["id"])
    for stage, domain in enumerate(("law", "code")):
        fill(session, third, stage, domain=domain, bases=[Basis.accumulated])

    def differences(other: str, **query: Any) -> set[float | None]:
        found = compare(api, (pair[0], other), part="history", **query)["history"]["matrices"]["data"]
        return {row["sensitivity_mean"]["difference"] for row in found}

    assert differences(third) == {None}
    assert differences(third, stage=0, other_stage=0) == {0.0}, "nothing was forgotten yet"
    assert differences(third, stage=1, other_stage=0) == {None}, "of one domain less"
    assert None not in differences(pair[0], stage=1, other_stage=0)


def test_sensitivities_compare_on_a_basis_that_both_have(
    api: httpx.Client, pair: tuple[str, str], inputs: Inputs, session: Session
) -> None:
    third = str(api.post("/v1/jobs", json=inputs.body()).json()["id"])
    fill(session, third, 0, domain="law", bases=[Basis.accumulated])
    for one, other in ((pair[0], third), (third, pair[0])):
        found = compare(api, (one, other), part="history", limit=1)["history"]
        assert found["sensitivity_basis"] == "accumulated"
        (row,) = found["matrices"]["data"]
        assert row["sensitivity_share"] == two(6 / 21, 6 / 21)
        assert row["sensitivity_mean"]["job"] == row["sensitivity_mean"]["other"] == 60 / 8


def test_agreement_is_counted_over_all_matrices_whatever_the_page(
    api: httpx.Client, pair: tuple[str, str]
) -> None:
    found = compare(api, pair, part="history", limit=1)["history"]
    expected = {
        "matrices": 6,
        "only_job": 0,
        "only_other": 0,
        "same_masks": 5,
        "same_weights": 4,
        "unknown": 0,
        "weights": 36,
        "weights_under_same_masks": 28,
    }
    assert found["agreement"] == expected
    names = []
    query: dict[str, Any] = {}
    while True:
        page = compare(api, pair, part="history", limit=4, **query)["history"]
        assert page["agreement"] == expected
        names += [row["matrix"] for row in page["matrices"]["data"]]
        if page["matrices"]["next_cursor"] is None:
            break
        query = {"cursor": page["matrices"]["next_cursor"]}
    assert names == [row["matrix"] for row in compare(api, pair)["history"]["matrices"]["data"]]
    narrowed = compare(api, pair, part="history", matrix="*.q_proj.*")["history"]
    assert (narrowed["agreement"]["matrices"], narrowed["agreement"]["same_masks"]) == (3, 3)
    # A share is of the whole stage, whatever is asked for.
    assert narrowed["matrices"]["data"][0]["sensitivity_share"]["job"] == pytest.approx(2 / 21)


def test_stages_can_be_chosen(api: httpx.Client, pair: tuple[str, str]) -> None:
    found = compare(api, pair, part="history", stage=1, other_stage=0)["history"]
    assert (found["job"]["domain"], found["other"]["domain"]) == ("code", "law")
    assert found["agreement"]["same_weights"] == 6
    body = refusal(api, pair, part="history", other_stage=7)
    assert body["errors"][0]["detail"] == f"{pair[1]} has no finished stage 7"
    assert body["errors"][0]["parameter"] == "other_stage"


def test_what_one_side_has_not_pruned_is_null_there(
    api: httpx.Client, pair: tuple[str, str], inputs: Inputs, session: Session
) -> None:
    third = str(api.post("/v1/jobs", json=inputs.body()).json()["id"])
    assert "no finished stage" in refusal(api, (pair[0], third), part="history")["detail"]
    unknown = {matrix_of(2, "q_proj"): {"mask_sha256": None, "weights_sha256": None}}
    fill(session, third, 0, domain="law", changed=unknown)
    session.connection().exec_driver_sql("DELETE FROM job_matrices WHERE job_id = %s AND block = 0", (third,))
    session.commit()
    found = compare(api, (third, pair[0]), part="history")["history"]
    agreement = found["agreement"]
    assert (agreement["matrices"], agreement["only_job"], agreement["only_other"]) == (4, 0, 2)
    assert (agreement["same_masks"], agreement["unknown"]) == (3, 1)
    missing, last = found["matrices"]["data"][0], found["matrices"]["data"][-1]
    assert (missing["block"], missing["solver"], missing["other_solver"]) == (0, None, "admm")
    assert missing["sparsity"] == two(None, 0.5)
    assert last["same_mask"] is last["same_weights"] is missing["same_mask"] is None


def test_other_models_are_refused_but_their_perplexities_compare(
    api: httpx.Client, pair: tuple[str, str], project: str, session: Session
) -> None:
    session.get_one(Job, pair[1]).model_id = make_model(session, project)
    session.commit()
    # Registered twice, but the same files.
    assert compare(api, pair)["history"]["agreement"]["matrices"] == 6
    session.get_one(Model, session.get_one(Job, pair[1]).model_id).digest = "9" * 64
    session.commit()
    assert "the model is" in refusal(api, pair)["detail"]
    assert compare(api, pair, part="evaluation")["history"] is None


def test_both_jobs_must_be_the_callers(api: httpx.Client, stranger: httpx.Client, pair: tuple[str, str]) -> None:
    never = f"job_{'0' * 32}"
    for caller, first, second in ((stranger, *pair), (api, pair[0], never), (api, never, pair[0])):
        answer = caller.get(f"/v1/jobs/{first}/compare/{second}")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    assert api.get(f"/v1/jobs/{pair[0]}/compare/{pair[1]}", params={"part": "all"}).status_code == 422
    assert api.get(f"/v1/jobs/{pair[0]}/compare/{pair[1]}", params={"cursor": "x"}).status_code == 422


def test_a_continuation_compares_with_the_job_before(
    api: httpx.Client, pair: tuple[str, str], inputs: Inputs, session: Session
) -> None:
    """R is the lineage's: the same rows, and one more; stages are each job's own."""
    domains = [{"name": "poems", "dataset": inputs.first}]
    child = str(api.post("/v1/jobs", json=inputs.body(domains=domains)).json()["id"])
    row = session.get_one(Job, child)
    row.continues, row.lineage_id, row.first_stage = pair[0], pair[0], 2
    evaluate(session, child, {**OURS, 3: {"law": 11.0, "code": 5.5}})
    fill(session, child, 0, domain="poems")
    found = compare(api, (pair[0], child))
    rows = found["evaluation"]["rows"]
    assert [(row["after"], row["other_after"]) for row in rows] == [
        (None, None),
        ("law", "law"),
        ("code", "code"),
        (None, "poems"),
    ]
    assert rows[3]["perplexity"] == {"law": two(None, 11.0), "code": two(None, 5.5)}
    assert found["evaluation"]["mean_perplexity"] == two(7.5, 8.25)
    # (10 − 9) / 1 over law alone there; (11 − 9 + 5.5 − 5) / 2 over both here.
    assert found["evaluation"]["bwt"] == two(1.0, 1.25)
    sides = [(side["stage"], side["domain"]) for side in (found["history"]["job"], found["history"]["other"])]
    assert sides == [(1, "code"), (0, "poems")]


def test_the_final_mean_leaves_out_what_one_of_them_no_longer_measures(
    api: httpx.Client, pair: tuple[str, str]
) -> None:
    one, other = (EvaluationRead.model_validate(api.get(f"/v1/jobs/{id}/evaluation").json()) for id in pair)
    last = other.rows[-1].model_copy(update={"perplexity": {"law": None, "code": 4.5}})
    lost = other.model_copy(update={"not_measured": ["law"], "rows": [*other.rows[:-1], last]})
    assert side_by_side(one, lost).mean_perplexity.model_dump() == two(5.0, 4.5)
    none = lost.model_copy(update={"not_measured": ["law", "code"]})
    assert side_by_side(one, none).mean_perplexity.model_dump() == two(None, None)
