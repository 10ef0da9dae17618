import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.tables.idempotency import IdempotencyKey
from app.tables.jobs import Job, JobDataset, JobEvent, JobStage
from app.tables.models import Model
from app.tables.outbox import OutboxMessage
from tests.app.conftest import Inputs

OCTETS = {"Content-Type": "application/octet-stream"}
COUNT_JOBS = select(func.count()).select_from(Job)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sparsity": {"target": 1.0}}, "/sparsity/target"),
    ({"sparsity": {"target": True}}, "/sparsity/target"),
    ({"sparsity": {"target": "0.5"}}, "/sparsity/target"),
    ({"sparsity": {}}, "/sparsity/target"),
    ({"sparsity": {"pattern": "4:2"}}, "/sparsity/pattern"),
    ({"sparsity": {"pattern": "2:4", "target": 0.7}}, "/sparsity/target"),
    ({"sparsity": {"target": 0.5, "overrides": [{"match": "*"}]}}, "/sparsity/overrides/0"),
    ({"method": {"name": "obs"}}, "/method/name"),
    ({"method": {"name": "wanda", "reading": "token"}}, "/method/reading"),
    ({"method": {"name": "magnitude", "admm": {}}}, "/method/admm"),
    ({"method": {"name": "admm", "admm": {"iterations": 5, "mask_steps": 9}}}, "/method/admm/mask_steps"),
    ({"method": {}}, "/method/name"),
    ({"domains": []}, "/domains"),
    ({"domains": [{"name": "a"}]}, "/domains/0/dataset"),
    ({"domains": [{"name": "a", "dataset": "x"}] * 2}, "/domains/1/name"),
    ({"method": {"name": "wanda", "mask": "searched"}}, "/method/mask"),
    ({"domains": [{"name": f"d{i}", "dataset": "x"} for i in range(65)]}, "/domains"),
    ({"domains": [{"name": "../a", "dataset": "x"}]}, "/domains/0/name"),
    ({"domains": [{"name": "a", "dataset": "x", "calibration": {"seed": -1}}]}, "/domains/0/calibration/seed"),
    (
        {"domains": [{"name": "a", "dataset": "x", "calibration": {"held_out": 0.5}}]},
        "/domains/0/calibration/held_out",
    ),
    (
        {
            "method": {"name": "auto"},
            "domains": [
                {"name": "a", "dataset": "x"},
                {"name": "b", "dataset": "x", "calibration": {"held_out": 0}},
            ],
        },
        "/domains/1/calibration/held_out",
    ),
    ({"labels": {"a b": "c"}}, "/labels/a b"),
    ({"labels": {f"l{i}": "c" for i in range(17)}}, "/labels"),
    ({"priority": 101}, "/priority"),
    ({"priority": 1e3}, "/priority"),
    ({"gate": {}}, "/gate"),
    ({"model": "mdl_" + "0" * 32}, "/model"),
    ({"domains": [{"name": "a", "dataset": "ds_x"}]}, "/domains/0/dataset"),
    ({"tasks": [{"name": "a b"}]}, "/tasks/0/name"),
    ({"tasks": [{"name": "a"}, {"name": "a", "limit": 5}]}, "/tasks/1/name"),
    ({"tasks": [{"name": "a", "few_shot": -1}]}, "/tasks/0/few_shot"),
    ({"tasks": [{"name": "a", "dataset": "ds_x"}]}, "/tasks/0/dataset"),
    ({"tasks": [{"name": f"t{i}"} for i in range(17)]}, "/tasks"),
]


def test_a_job_comes_with_stages_first_event_and_ring(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    response = api.post("/v1/jobs", json=inputs.body(labels={"team": "search"}, priority=3))
    assert response.status_code == 201, response.text
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["method"], job["model"], job["priority"]) == ("queued", "copal", inputs.model, 3)
    assert job["labels"] == {"team": "search"}
    calibration = {"samples": 128, "sequence_length": 2048, "seed": 0, "held_out": 0.1, "documents": "joined"}
    assert job["spec"]["domains"][0]["calibration"] == calibration
    assert job["spec"]["method"]["reading"] == "own_terms"
    assert [
        (row.stage, row.domain, row.state) for row in session.scalars(select(JobStage).order_by(JobStage.stage))
    ] == [
        (0, "law", "pending"),
        (1, "code", "pending"),
    ]
    assert [(row.seq, row.type) for row in session.scalars(select(JobEvent))] == [(1, "created")]
    assert [(row.queue, row.hint) for row in session.scalars(select(OutboxMessage))] == [("gpu", job["id"])]
    assert set(session.scalars(select(JobDataset.dataset_id))) == {inputs.first, inputs.second}
    assert api.get(f"/v1/jobs/{job['id']}").json() == job


def test_what_is_wrong_is_named(api: httpx.Client, inputs: Inputs) -> None:
    for change, pointer in WRONG:
        response = api.post("/v1/jobs", json=inputs.body(**change))
        assert response.status_code == 422, (change, response.text)
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["errors"][0]["pointer"] == pointer, change
    assert api.get("/v1/jobs").json()["data"] == []


def test_pending_inputs_are_taken_and_failed_ones_not(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    session.execute(update(Model).values(state="pending"))
    session.commit()
    assert api.post("/v1/jobs", json=inputs.body()).status_code == 201
    session.execute(update(Model).values(state="failed"))
    session.commit()
    refused = api.post("/v1/jobs", json=inputs.body())
    assert (refused.status_code, refused.json()["code"]) == (422, "input_refused")


def test_questions_are_rows_of_an_uploaded_jsonl(api: httpx.Client, inputs: Inputs) -> None:
    rows = json.dumps({"question": "the cat", "choices": ["a", "b"], "answer": 0})
    given = {"name": "questions", "format": "jsonl", "text_field": "question"}
    sent = api.post("/v1/datasets/upload", params=given, content=rows, headers=OCTETS)
    assert sent.status_code == 201, sent.text
    made = api.post("/v1/jobs", json=inputs.body(tasks=[{"name": "own", "dataset": sent.json()["id"]}]))
    assert made.status_code == 201, made.text
    assert api.delete(f"/v1/datasets/{sent.json()['id']}").status_code == 409, "the job needs it"
    for path in ("/v1/jobs", "/v1/plans"):
        refused = api.post(path, json=inputs.body(tasks=[{"name": "own", "dataset": inputs.first}]))
        assert (refused.status_code, refused.json()["code"]) == (422, "input_refused")
        assert refused.json()["errors"][0]["pointer"] == "/tasks/0/dataset"


def test_another_projects_inputs_do_not_exist(stranger: httpx.Client, inputs: Inputs) -> None:
    response = stranger.post("/v1/jobs", json=inputs.body())
    assert response.status_code == 422
    assert {error["detail"] for error in response.json()["errors"]} == {
        "there is no such model",
        "there is no such dataset",
    }


def test_a_failed_commit_never_looks_like_success(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    session.execute(text("CREATE FUNCTION refuse() RETURNS trigger AS 'BEGIN RAISE ''no''; END' LANGUAGE plpgsql"))
    session.execute(
        text(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    )
    session.commit()
    response = api.post("/v1/jobs", json=inputs.body())
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "refuse" not in response.text
    assert session.scalar(COUNT_JOBS) == 0


def test_a_connection_lost_in_the_commit_is_503(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    session.execute(
        text(
            "CREATE FUNCTION die() RETURNS trigger AS "
            "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END' LANGUAGE plpgsql"
        )
    )
    session.execute(
        text(
            "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION die()"
        )
    )
    session.commit()
    response = api.post("/v1/jobs", json=inputs.body())
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert response.headers["retry-after"]
    assert session.scalar(COUNT_JOBS) == 0
    assert api.get("/v1/jobs").status_code == 200


def test_the_same_request_twice_makes_one_job(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = api.post("/v1/jobs", json=inputs.body(), headers=key)
    again = api.post("/v1/jobs", json=dict(reversed(inputs.body().items())), headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert first.headers["location"] == again.headers["location"]
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    assert session.scalar(COUNT_JOBS) == 1


def test_a_key_with_another_body_is_refused(api: httpx.Client, inputs: Inputs) -> None:
    key = {"Idempotency-Key": "k-1"}
    api.post("/v1/jobs", json=inputs.body(), headers=key)
    # The default written out is another body, as sent.
    other = api.post("/v1/jobs", json=inputs.body(priority=0), headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_refused_request_does_not_use_up_its_key(api: httpx.Client, inputs: Inputs) -> None:
    key = {"Idempotency-Key": "k-1"}
    assert api.post("/v1/jobs", json=inputs.body(model="mdl_x"), headers=key).status_code == 422
    assert api.post("/v1/jobs", json=inputs.body(), headers=key).status_code == 201


def test_a_key_is_forgotten_after_its_time(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = api.post("/v1/jobs", json=inputs.body(), headers=key)
    session.execute(update(IdempotencyKey).values(expires_at=func.now() - text("interval '1 second'")))
    session.commit()
    again = api.post("/v1/jobs", json=inputs.body(), headers=key)
    assert again.status_code == 201
    assert again.json()["id"] != first.json()["id"]


def test_a_key_outlives_its_job(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    """A repetition that comes after the job was deleted must not run it again."""
    key = {"Idempotency-Key": "k-1"}
    first = api.post("/v1/jobs", json=inputs.body(), headers=key)
    session.execute(update(Job).values(state="cancelled"))
    session.commit()
    assert api.delete(first.headers["location"]).status_code == 204
    again = api.post("/v1/jobs", json=inputs.body(), headers=key)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    assert api.get(first.headers["location"]).status_code == 404
    assert session.scalar(COUNT_JOBS) == 0


def test_projects_do_not_share_keys(api: httpx.Client, stranger: httpx.Client, inputs: Inputs) -> None:
    key = {"Idempotency-Key": "k-1"}
    api.post("/v1/jobs", json=inputs.body(), headers=key)
    response = stranger.post("/v1/jobs", json=inputs.body(), headers=key)
    assert response.json()["code"] == "input_refused"


def test_unusable_keys_are_refused(api: httpx.Client, inputs: Inputs) -> None:
    for key in ("", "a b", "ü".encode("latin-1"), "x" * 256):
        response = api.post("/v1/jobs", json=inputs.body(), headers={"Idempotency-Key": key})
        assert response.status_code == 422
        assert response.json()["errors"][0]["parameter"] == "Idempotency-Key"


def test_many_different_requests_at_once_all_succeed(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    """More callers than threads and more threads than connections: nobody waits for somebody who waits for him."""

    def send(number: int) -> int:
        return api.post("/v1/jobs", json=inputs.body(priority=number)).status_code

    with ThreadPoolExecutor(60) as pool:
        assert set(pool.map(send, range(100))) == {201}
    assert session.scalar(COUNT_JOBS) == 100
