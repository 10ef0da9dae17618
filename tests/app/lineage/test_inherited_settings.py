"""What a continuation takes over of its parent's settings when it names some of them."""

import json
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from tests.app.conftest import Inputs
from tests.app.jobs.test_control import events
from tests.app.lineage.lineages import continued, domain, publish, submit

ADMM = {"iterations": 9, "mask_steps": 5, "damping": 0.3}


@pytest.fixture
def solved(api: httpx.Client, inputs: Inputs, session: Session) -> str:
    """A published job with settings of its own, 2:4."""
    method = {
        "name": "copal",
        "weight_update": "admm",
        "perturbation": "relative",
        "mask": "searched",
        "admm": ADMM,
    }
    job = submit(api, inputs.body(method=method, sparsity={"pattern": "2:4"}))
    publish(session, job)
    return job


def test_tasks_are_the_parents_unless_others_are_named(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    parent = submit(api, inputs.body(tasks=[{"name": "arc_easy", "limit": 5}]))
    publish(session, parent)
    own = {"name": "own", "dataset": None, "few_shot": 2, "limit": None}
    cases: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
        ({}, [{"name": "arc_easy", "dataset": None, "few_shot": None, "limit": 5}]),
        ({"tasks": [{"name": "own", "few_shot": 2}]}, [own]),
        ({"tasks": []}, []),
    ]
    for given, tasks in cases:
        assert continued(api, parent, inputs.first, **given)["spec"]["tasks"] == tasks


def test_a_task_whose_questions_were_deleted_is_left_out_with_a_warning(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    rows = json.dumps({"question": "the cat", "choices": ["a", "b"], "answer": 0})
    given = {"name": "questions", "format": "jsonl", "text_field": "question"}
    octets = {"Content-Type": "application/octet-stream"}
    sent = api.post("/v1/datasets/upload", params=given, content=rows, headers=octets).json()["id"]
    parent = submit(api, inputs.body(tasks=[{"name": "own", "dataset": sent}, {"name": "arc_easy"}]))
    publish(session, parent)
    kept = continued(api, parent, inputs.first)
    assert [task["name"] for task in kept["spec"]["tasks"]] == ["own", "arc_easy"]
    assert api.post(f"/v1/jobs/{kept['id']}/cancel").is_success
    assert api.delete(f"/v1/datasets/{sent}").status_code == 204
    for tasks, lost in ((None, True), ([{"name": "hellaswag"}], False)):
        said = {} if tasks is None else {"tasks": tasks}
        job = continued(api, parent, inputs.first, **said)
        assert [task["name"] for task in job["spec"]["tasks"]] == (["arc_easy"] if lost else ["hellaswag"])
        notes = [event["data"] for event in events(api, job["id"]) if event["type"] == "note"]
        assert [note.get("tasks") for note in notes if note["code"] == "tasks_lost"] == [["own"]] * lost


@pytest.mark.parametrize(
    "given",
    [
        {"objective": "least_forgetting"},
        {"name": "copal", "objective": "least_forgetting"},
        {"comparison_group": "matrix"},
        {"mask": "selected"},
        {"recency": 0.5},
        {"recency": None, "name": None, "mode": None},
        {"objective": None, "weight_update": None, "mask": None, "admm": None, "comparison_group": None},
        {"reading": None, "perturbation": None, "alps": None, "sparsegpt": None},
        {},
    ],
)
def test_a_part_of_the_method_leaves_the_rest_as_it_was(
    api: httpx.Client, solved: str, inputs: Inputs, given: dict[str, Any]
) -> None:
    theirs = api.get(f"/v1/jobs/{solved}").json()["spec"]["method"]
    mine = continued(api, solved, inputs.first, method=given)["spec"]["method"]
    assert mine == theirs | {name: value for name, value in given.items() if value is not None}
    assert (mine["weight_update"], mine["admm"]["damping"]) == ("admm", 0.3)


def test_a_part_of_a_solvers_settings_leaves_the_rest(
    api: httpx.Client, solved: str, inputs: Inputs, session: Session
) -> None:
    mine = continued(api, solved, inputs.first, method={"admm": {"iterations": 6}})["spec"]["method"]
    assert mine["admm"] == {"schedule": "immediate", "rho": 1.0, "polish_steps": 10} | ADMM | {"iterations": 6}
    mine = continued(api, solved, inputs.first, method={"admm": {"iterations": 6, "rho": None}})["spec"]["method"]
    assert (mine["admm"]["iterations"], mine["admm"]["rho"]) == (6, 1.0)
    body = {"continues": solved, "domains": [domain("sales", inputs.first)]}
    refused = api.post("/v1/jobs", json={**body, "method": {"admm": {"iterations": 3}}})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/method/admm/mask_steps")
    alps = submit(api, inputs.body(method={"name": "alps", "alps": {"max_steps": 40}, "mode": "sequential"}))
    publish(session, alps)
    mine = continued(api, alps, inputs.first, method={"alps": {"rho": 0.2}})["spec"]["method"]
    assert (mine["alps"]["max_steps"], mine["alps"]["rho"], mine["mode"]) == (40, 0.2, "sequential")


def test_another_method_begins_with_its_own_defaults(api: httpx.Client, solved: str, inputs: Inputs) -> None:
    mine = continued(api, solved, inputs.first, method={"name": "admm"})["spec"]["method"]
    assert (mine["admm"]["damping"], mine["comparison_group"], mine["mode"]) == (0.1, "matrix", "accumulated")


def test_what_is_given_ends_what_it_contradicts(
    api: httpx.Client, solved: str, inputs: Inputs, session: Session
) -> None:
    plain = continued(api, solved, inputs.first, method={"weight_update": "none"})["spec"]["method"]
    assert not {"admm", "mask", "target"} & set(plain)
    careful = continued(api, solved, inputs.first, method={"objective": "least_forgetting"})["id"]
    publish(session, careful)
    body: dict[str, Any] = {"continues": careful, "domains": [domain("hr", inputs.first)]}
    faded = api.post("/v1/jobs", json={**body, "method": {"recency": 0.5}}).json()
    assert (faded["spec"]["method"]["recency"], faded["spec"]["method"]["objective"]) == (0.5, "mean")
    publish(session, faded["id"])
    body = {"continues": faded["id"], "domains": [domain("it", inputs.first)]}
    again = api.post("/v1/jobs", json={**body, "method": {"objective": "least_forgetting"}}).json()["spec"][
        "method"
    ]
    assert again["objective"] == "least_forgetting"
    assert "recency" not in again


@pytest.mark.parametrize(
    "given", [{"overrides": []}, {"pattern": "2:4", "target": None}, {"target": 0.5}, {"allocation": "uniform"}]
)
def test_a_part_of_the_sparsity_may_be_said_again(
    api: httpx.Client, solved: str, inputs: Inputs, given: dict[str, Any]
) -> None:
    sparsity = api.get(f"/v1/jobs/{solved}").json()["spec"]["sparsity"]
    assert continued(api, solved, inputs.first, sparsity=given)["spec"]["sparsity"] == sparsity
