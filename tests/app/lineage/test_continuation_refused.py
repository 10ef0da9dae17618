"""What no job can continue, and which requests do not fit the job that they continue."""

from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.lineage import continuation
from app.tables.models import Model
from tests.app.conftest import Inputs
from tests.app.jobs.test_control import put
from tests.app.lineage.lineages import domain, publish, submit
from tests.histories import fill, matrix_of


def test_every_difference_is_named_with_both_values(api: httpx.Client, parent: str, third: str) -> None:
    body = {
        "continues": parent,
        "model": "mdl_other",
        "sparsity": {"target": 0.5, "allocation": "uniform", "overrides": []},
        "evaluation": {"sequence_length": 128},
        "method": {"name": "copal", "mode": "sequential", "reading": "token"},
        "domains": [domain("law", third), domain("sales", third)],
    }
    refused = api.post("/v1/jobs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "lineage_mismatch")
    found = {error["pointer"]: error["detail"] for error in refused.json()["errors"]}
    assert set(found) == {
        *("/model", "/method/mode", "/method/reading", "/evaluation/sequence_length", "/domains/0/name"),
        *("/sparsity/target", "/sparsity/allocation", "/sparsity/overrides"),
    }
    assert found["/sparsity/target"] == "is 0.5, and the lineage's is 0.6; leave it out"
    assert found["/evaluation/sequence_length"] == "is 128, and the lineage's is 64; leave it out"
    assert "stage 0" in found["/domains/0/name"]
    assert session_count(api) == 1


def session_count(api: httpx.Client) -> int:
    return len(api.get("/v1/jobs").json()["data"])


def test_a_plan_inherits_and_checks_as_well(api: httpx.Client, parent: str, third: str) -> None:
    body: dict[str, Any] = {"continues": parent, "domains": [domain("sales", third)]}
    plan = api.post("/v1/plans", json=body)
    assert plan.status_code == 202, plan.text
    assert plan.json()["spec"]["sparsity"]["target"] == 0.6
    refused = api.post("/v1/plans", json={**body, "sparsity": {"target": 0.5}})
    assert (refused.status_code, refused.json()["code"]) == (422, "lineage_mismatch")
    absent = api.post("/v1/plans", json={**body, "continues": "job_x"})
    assert (absent.status_code, absent.json()["errors"][0]["pointer"]) == (404, "/continues")


def test_statistics_that_nobody_kept_are_missed(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    first = submit(api, inputs.body(method={"name": "wanda"}))
    publish(session, first)
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({"name": "admm"}, "/method/name"),
        ({"name": "sparsegpt"}, "/method/name"),
        ({"name": "magnitude", "weight_update": "admm"}, "/method/weight_update"),
        ({"name": "copal", "reading": "token"}, "/method/reading"),
        ({"name": "copal", "perturbation": "relative"}, None),
        ({"name": "copal"}, None),
        ({"name": "magnitude"}, None),
    ]
    for index, (method, pointer) in enumerate(cases):
        body = {"continues": first, "method": method, "domains": [domain(f"d{index}", inputs.first)]}
        response = api.post("/v1/jobs", json=body)
        if pointer is None:
            assert response.status_code == 201, response.text
        else:
            assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
            assert response.json()["code"] == "lineage_mismatch"


def test_a_sum_of_which_one_job_left_a_part_out_is_not_whole(
    api: httpx.Client, parent: str, inputs: Inputs, session: Session
) -> None:
    """ADMM, then Wanda: what Wanda leaves has no Gram of the last domain, so ADMM cannot continue it."""
    wanda = {"continues": parent, "method": {"name": "wanda"}, "domains": [domain("a", inputs.first)]}
    second = submit(api, wanda)
    publish(session, second)
    admm = {"continues": second, "method": {"name": "admm"}, "domains": [domain("b", inputs.first)]}
    assert api.post("/v1/jobs", json=admm).json()["code"] == "lineage_mismatch"
    assert api.post("/v1/jobs", json={**admm, "continues": parent}).status_code == 201


def test_a_method_that_an_override_names_kept_no_gram(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    sparsity = {"target": 0.5, "overrides": [{"match": "*.down_proj.weight", "method": "wanda"}]}
    deciding = {"notes": {"overrides": ["*.down_proj.weight"]}}
    first = submit(api, inputs.body(method={"name": "admm"}, sparsity=sparsity))
    for stage, name in enumerate(("law", "code")):
        fill(
            session,
            first,
            stage,
            domain=name,
            changed={matrix_of(block, "down_proj"): deciding for block in range(3)},
        )
    publish(session, first)
    body = {
        "continues": first,
        "method": {"name": "copal", "weight_update": "admm"},
        "domains": [domain("a", inputs.first)],
    }
    refused = api.post("/v1/jobs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "lineage_mismatch")
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/method/weight_update"]
    assert api.post("/v1/jobs", json={**body, "method": {"name": "alps"}}).status_code == 201


@pytest.mark.parametrize("state", ["queued", "running", "pausing", "paused", "cancelling"])
def test_an_unfinished_job_is_not_continued(
    api: httpx.Client, job: str, inputs: Inputs, session: Session, state: str
) -> None:
    put(session, job, state=state)
    refused = api.post("/v1/jobs", json={"continues": job, "domains": [domain("x", inputs.first)]})
    assert (refused.status_code, refused.json()["code"]) == (409, "job_unfinished")
    assert refused.json()["state"] == state


def test_what_left_no_state_is_not_continued(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    def refused(job: str) -> str:
        answer = api.post("/v1/jobs", json={"continues": job, "domains": [domain("x", inputs.first)]})
        assert (answer.status_code, answer.json()["code"]) == (409, "not_continuable")
        return str(answer.json()["detail"])

    for state in ("failed", "cancelled"):
        job = submit(api, inputs.body())
        put(session, job, state=state)
        assert "no final state" in refused(job)
    restart = submit(api, inputs.body(method={"name": "wanda", "mode": "restart"}))
    publish(session, restart)
    assert "mode restart" in refused(restart)
    stateless = submit(api, inputs.body())
    publish(session, stateless, manifest={"digest": "0" * 64, "files": [], "provenance": {}})
    assert "no state files" in refused(stateless)


def test_a_job_that_missed_its_gate_is_continued(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    job = submit(api, inputs.body())
    publish(session, job, state="failed", failure={"code": "gate_failed", "cause": "user", "message": "no"})
    assert submit(api, {"continues": job, "domains": [domain("x", inputs.first)]})


def test_a_model_that_is_another_now_is_refused(
    api: httpx.Client, parent: str, third: str, session: Session
) -> None:
    session.execute(update(Model).values(digest="f" * 64))
    session.commit()
    refused = api.post("/v1/jobs", json={"continues": parent, "domains": [domain("sales", third)]})
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/model"]


def test_another_projects_job_does_not_exist(
    api: httpx.Client, stranger: httpx.Client, parent: str, third: str
) -> None:
    body = {"continues": parent, "domains": [domain("sales", third)]}
    theirs, never = (stranger.post("/v1/jobs", json={**body, "continues": id}) for id in (parent, "job_never"))
    assert (theirs.status_code, never.status_code) == (404, 404)
    details = [each.json()["detail"].replace(parent, "job_never") for each in (theirs, never)]
    assert details[0] == details[1]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/model"),
        ({"continues": None}, "/continues"),
        ({"continues": 5}, "/continues"),
        ({"continues": "job_x", "domains": []}, "/domains"),
        ({"continues": "job_x", "sparsity": {"target": 2}}, "/sparsity/target"),
        ({"continues": "job_x", "method": {"name": "prayer"}}, "/method/name"),
        ({"continues": "job_x", "method": {"patience": 5}}, "/method/patience"),
        ({"continues": "job_x", "method": {"admm": 5}}, "/method/admm"),
        ({"continues": "job_x", "sparsity": {"overrides": [{}]}}, "/sparsity/overrides/0"),
        ({"continues": "job_x", "model": 5}, "/model"),
        ({"continues": "job_x", "more": 5}, "/more"),
    ],
)
def test_malformed_continuations_are_named(api: httpx.Client, third: str, body: Any, pointer: str) -> None:
    refused = api.post("/v1/jobs", json={"domains": [domain("x", third)], **body})
    assert refused.status_code == 422
    assert pointer in [error["pointer"] for error in refused.json()["errors"]]


def test_a_lineage_has_an_end(api: httpx.Client, parent: str, third: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuation, "MAX_DOMAINS", 3)
    body = {"continues": parent, "domains": [domain("sales", third), domain("hr", third)]}
    refused = api.post("/v1/jobs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "lineage_mismatch")
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/domains"]
    assert api.post("/v1/jobs", json={**body, "domains": body["domains"][:1]}).status_code == 201
