"""What a continuation inherits, and who may come in between."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery import checkpoint, input_digests
from app.delivery import publish as delivery
from app.delivery.claim import claim
from app.delivery.lease import guard
from app.lineage import stages as lineage
from app.lineage.warnings import foreseen
from app.tables.jobs import Job, JobDataset, JobEvaluation, JobStage
from secateur.spec.records.history import JobWarning
from tests.app.conftest import Inputs
from tests.app.jobs.test_control import events, put
from tests.app.lineage.lineages import SPARSITY, continued, domain, evaluate, publish, submit
from tests.jobs import make_dataset
from tests.records import summary


def test_what_is_left_out_is_the_parents(api: httpx.Client, parent: str, third: str) -> None:
    job = api.post("/v1/jobs", json={"continues": parent, "domains": [domain("sales", third, third)]}).json()
    old = api.get(f"/v1/jobs/{parent}").json()
    assert (job["continues"], job["lineage"], job["first_stage"], job["method"]) == (parent, parent, 2, "copal")
    assert (old["continues"], old["lineage"], old["first_stage"]) == (None, parent, 0)
    for part in ("model", "method", "sparsity", "evaluation"):
        assert job["spec"][part] == old["spec"][part], part
    assert [each["name"] for each in job["spec"]["domains"]] == ["sales"]
    assert job["spec"]["continues"] == parent
    assert "continues" not in old["spec"]
    again = api.post("/v1/jobs", json={**job["spec"], "labels": {"again": "yes"}})
    assert again.status_code == 201, "a resolved spec is a request itself"
    assert again.json()["spec_digest"] == job["spec_digest"]


def test_what_is_said_again_may_be_said(api: httpx.Client, parent: str, third: str) -> None:
    body = {
        "continues": parent,
        "model": api.get(f"/v1/jobs/{parent}").json()["model"],
        "sparsity": {"target": 0.6},
        "evaluation": {"max_windows": 2},
        "method": {"name": "wanda"},
        "domains": [domain("sales", third)],
    }
    job = api.post("/v1/jobs", json=body)
    assert job.status_code == 201, job.text
    spec = job.json()["spec"]
    assert spec["sparsity"]["allocation"] == "owl"
    assert spec["sparsity"]["overrides"] == SPARSITY["overrides"]
    assert spec["evaluation"] == {"sequence_length": 64, "max_windows": 2, "documents": "joined"}
    assert (spec["method"]["name"], spec["method"]["mode"]) == ("wanda", "accumulated")


def notes(api: httpx.Client, job: str) -> list[dict[str, Any]]:
    return [event["data"] for event in events(api, job) if event["type"] == "note"]


def test_a_state_that_will_have_less_is_said(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    sparsity, output = {"target": 0.5, "allocation": "uniform"}, {"keep_domain_statistics": True}
    parent = submit(api, inputs.body(method={"name": "admm"}, sparsity=sparsity, output=output))
    publish(session, parent)
    kept = continued(api, parent, inputs.first)["id"]
    assert notes(api, kept) == []
    wanda = continued(
        api, parent, inputs.first, method={"name": "wanda"}, output={"keep_domain_statistics": False}
    )["id"]
    (note,) = notes(api, wanda)
    assert (note["level"], note["code"], note["parent"]) == ("warning", "statistics_dropped", parent)
    assert note["kinds"] == ["cross", "gram", "output_grams", "domain_grams"]
    spec = api.get(f"/v1/jobs/{wanda}").json()["spec"]
    (told,) = foreseen(session, [session.get_one(Job, parent)], spec)
    assert {"level": "warning", "message": told.message, "code": told.code, **told.data} == note, (
        "a plan says it too"
    )
    put(session, wanda, state="failed")
    assert notes(api, api.post(f"/v1/jobs/{wanda}/retry").json()["id"]) == [note], "a retry says it as well"


def test_what_was_said_at_first_is_in_the_result_too(
    api: httpx.Client, parent: str, inputs: Inputs, third: str
) -> None:
    assert api.delete(f"/v1/datasets/{inputs.second}").status_code == 204
    job = continued(api, parent, third, method={"name": "wanda"})["id"]
    unchanged = JobWarning(code="masks_unchanged", message="nothing moved", data={"stage": 0})
    with transaction() as session:
        taken = claim(session, "w", 60)
    assert taken is not None
    with transaction() as session:
        delivery.publish(session, taken.lease, delivery.make_manifest([], {}), summary(unchanged))
    warnings = api.get(f"/v1/jobs/{job}").json()["result"]["warnings"]
    said = [
        {"level": "warning", "message": each["message"], "code": each["code"]} | each["data"] for each in warnings
    ]
    assert said[:2] == notes(api, job)
    assert [each["code"] for each in warnings] == ["evaluation_lost", "statistics_dropped", "masks_unchanged"]
    assert (warnings[0]["data"], warnings[1]["data"]["kinds"]) == (
        {"domains": ["law"]},
        ["cross", "gram", "output_grams"],
    )
    assert warnings[2] == unchanged.model_dump()


def test_a_test_text_that_an_earlier_job_was_calibrated_on_is_said(
    api: httpx.Client, parent: str, inputs: Inputs, third: str, session: Session, project: str
) -> None:
    """Also behind a job in between, as another dataset of the same file, and with the old one deleted."""
    other = make_dataset(session, project, "four")
    session.commit()
    between = continued(api, parent, other, domains=[domain("hr", other)])["id"]
    publish(session, between)
    copy = make_dataset(session, project, "one")
    session.commit()
    assert api.delete(f"/v1/datasets/{inputs.first}").status_code == 204
    job = continued(api, between, third, domains=[domain("sales", third, copy), domain("it", third, third)])
    (note,) = notes(api, job["id"])
    assert (note["code"], note["level"], note["same_file"]) == ("texts_overlap", "warning", True)
    assert (note["calibration"], note["evaluation"]) == ("law", "sales")


def test_the_parents_gate_counts_until_another_takes_its_place(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    gate = {"max_bwt": 2.0, "max_log_bwt": 0.1, "max_mean_perplexity": None}
    first = submit(api, inputs.body(gate=gate))
    publish(session, first)
    inherited = continued(api, first, inputs.first)
    assert inherited["spec"]["gate"] == gate
    again = api.post("/v1/jobs", json=inherited["spec"]).json()
    assert again["spec_digest"] == inherited["spec_digest"], "a resolved spec means what it meant"
    other = continued(api, first, inputs.first, gate={"max_bwt": 3.0})
    assert other["spec"]["gate"] == {"max_bwt": 3.0, "max_log_bwt": None, "max_mean_perplexity": None}
    ended = continued(api, first, inputs.first, gate=None)
    assert ended["spec"]["gate"] is None
    assert api.post("/v1/jobs", json=ended["spec"]).json()["spec_digest"] == ended["spec_digest"]


def test_output_and_weights_of_a_continuation(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    output = {"state_precision": "float32", "keep_domain_statistics": True}
    parent = submit(api, inputs.body(output=output, method={"name": "wanda", "mode": "sequential"}))
    publish(session, parent)
    body: dict[str, Any] = {"continues": parent, "domains": [domain("x", inputs.first)]}
    kept = api.post("/v1/jobs", json={**body, "output": {"keep_sensitivities": True}}).json()["spec"]["output"]
    output = {**output, "form": "dense", "keep_stages": False, "publish_to": None}
    assert kept == {**output, "keep_sensitivities": True}
    assert api.post("/v1/jobs", json=body).json()["spec"]["output"] == {**output, "keep_sensitivities": False}
    for change, pointer in [
        ({"domains": [domain("x", inputs.first) | {"weight": 2.0}]}, "/domains/0/weight"),
        ({"method": {"name": "wanda", "recency": 0.5}}, "/method/recency"),
        ({"method": {"name": "wanda", "objective": "least_forgetting"}}, "/method/objective"),
    ]:
        refused = api.post("/v1/jobs", json={**body, **change})
        assert refused.status_code == 422, change
        assert [error["pointer"] for error in refused.json()["errors"]] == [pointer], (
            "the parent's mode has no sums"
        )


def test_numerics_are_one_for_a_lineage(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    parent = submit(api, inputs.body(numerics="exact"))
    publish(session, parent)
    body: dict[str, Any] = {"continues": parent, "domains": [domain("x", inputs.first)]}
    assert api.post("/v1/jobs", json=body).json()["spec"]["numerics"] == "exact"
    assert api.post("/v1/jobs", json={**body, "numerics": "exact"}).status_code == 201
    refused = api.post("/v1/jobs", json={**body, "numerics": "fast"}).json()
    assert refused["code"] == "lineage_mismatch"
    assert [error["pointer"] for error in refused["errors"]] == ["/numerics"]


def test_r_begins_with_the_parents_rows(api: httpx.Client, parent: str, third: str, session: Session) -> None:
    job = submit(api, {"continues": parent, "domains": [domain("sales", third, third)]})
    evaluate(session, job, 0, sales=30.0)
    evaluate(session, job, 3, law=14.0, sales=33.0)
    found = api.get(f"/v1/jobs/{job}/evaluation").json()
    assert found["domains"] == ["law", "sales"]
    assert [row["perplexity"] for row in found["rows"]] == [
        {"law": 10.0, "sales": 30.0},
        {"law": 11.0, "sales": None},
        {"law": 12.0, "sales": None},
        {"law": 14.0, "sales": 33.0},
    ]
    assert [(row["stage"], row["lineage_stage"], row["job"], row["after"]) for row in found["rows"]] == [
        (None, None, None, None),
        (None, 0, parent, "law"),
        (None, 1, parent, "code"),
        (0, 2, job, "sales"),
    ]
    assert (found["bwt"], found["mean_perplexity"], found["not_measured"]) == (3.0, 23.5, [])
    stages = api.get(f"/v1/jobs/{job}/stages").json()["data"]
    assert [(row["stage"], row["lineage_stage"], row["domain"]) for row in stages] == [(0, 2, "sales")]


def test_earlier_test_texts_are_read_and_calibration_texts_are_not(
    api: httpx.Client, parent: str, inputs: Inputs, third: str, session: Session
) -> None:
    job = submit(api, {"continues": parent, "domains": [domain("sales", third)]})
    read = set(session.scalars(select(JobDataset.dataset_id).where(JobDataset.job_id == job)))
    assert read == {inputs.second, third}
    refused = api.delete(f"/v1/datasets/{inputs.second}")
    assert (refused.status_code, refused.json()["code"]) == (409, "dataset_in_use")
    assert api.delete(f"/v1/datasets/{inputs.first}").status_code == 204


def test_a_deleted_test_text_is_no_longer_measured_and_that_is_said(
    api: httpx.Client, parent: str, inputs: Inputs, third: str, session: Session
) -> None:
    assert api.delete(f"/v1/datasets/{inputs.second}").status_code == 204
    job = submit(api, {"continues": parent, "domains": [domain("sales", third, third)]})
    note = next(event["data"] for event in events(api, job) if event["type"] == "note")
    assert (note["code"], note["level"], note["domains"]) == ("evaluation_lost", "warning", ["law"])
    assert "gate" not in note["message"]
    evaluate(session, job, 3, sales=33.0)
    found = api.get(f"/v1/jobs/{job}/evaluation").json()
    assert (found["not_measured"], found["bwt"], found["mean_perplexity"]) == (["law"], None, 33.0)
    with transaction() as other:
        taken = claim(other, "w", 60)
        assert taken is not None
        assert taken.base is not None
        assert (taken.base.domains, taken.base.evaluations) == (("law", "code"), ())
    gated = submit(
        api, {"continues": parent, "domains": [domain("it", third, third)], "gate": {"max_mean_perplexity": 9}}
    )
    note = next(event["data"] for event in events(api, gated) if event["type"] == "note")
    assert note["message"].endswith("and the gate looks at the others alone")


def test_the_claim_says_what_to_bring(api: httpx.Client, parent: str, inputs: Inputs, third: str) -> None:
    submit(api, {"continues": parent, "domains": [domain("sales", third)]})
    with transaction() as session:
        taken = claim(session, "w", 60)
        assert taken is not None
        base = taken.base
        assert base is not None
        assert [file.path for file in base.files] == [
            *("model/model-00001-of-00003.safetensors", "model/model-00002-of-00003.safetensors"),
            *("state/block-0000.safetensors", "state/block-0001.safetensors"),
        ], "the last shard is the dense model's"
        assert base.files[0].key.startswith(f"jobs/{parent}/{parent}-1/")
        assert (base.domains, base.evaluations) == (("law", "code"), (("law", inputs.second),))
        assert inputs.second in taken.datasets


def test_the_parents_manifest_is_part_of_the_basis(
    api: httpx.Client, parent: str, third: str, session: Session
) -> None:
    job = submit(api, {"continues": parent, "domains": [domain("sales", third)]})
    row = session.get_one(Job, job)
    before = input_digests.current(session, row)
    assert before["parent"] == session.get_one(Job, parent).manifest["digest"]  # type: ignore[index]
    changed = input_digests.differences(before, {**before, "parent": "f" * 64})
    assert [(each.what, each.pointer) for each in changed] == [("parent", "/continues")]


def test_a_retry_goes_on_from_the_same_job(api: httpx.Client, parent: str, third: str, session: Session) -> None:
    job = submit(api, {"continues": parent, "domains": [domain("sales", third, third)]})
    put(session, job, state="failed")
    new = api.post(f"/v1/jobs/{job}/retry").json()
    assert (new["continues"], new["lineage"], new["first_stage"], new["retry_of"]) == (parent, parent, 2, job)
    mine, theirs = (api.get(f"/v1/jobs/{id}/evaluation").json()["rows"] for id in (new["id"], job))
    assert mine == theirs
    datasets = [
        set(session.scalars(select(JobDataset.dataset_id).where(JobDataset.job_id == id)))
        for id in (new["id"], job)
    ]
    assert datasets[0] == datasets[1]


def test_a_retried_job_is_continued_from_where_its_objects_lie(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    first = submit(api, inputs.body())
    put(session, first, state="failed")
    second = api.post(f"/v1/jobs/{first}/retry").json()["id"]
    publish(session, second)
    child = submit(api, {"continues": second, "domains": [domain("x", inputs.first)]})
    assert api.get(f"/v1/jobs/{child}").json()["lineage"] == second
    assert api.delete(f"/v1/jobs/{first}").status_code == 204, "the retry keeps what is under its name"
    with transaction() as other:
        taken = claim(other, "w", 60)
        assert taken is not None
        assert taken.base is not None
        assert {file.key.split("/")[1] for file in taken.base.files} == {first}


def test_a_restarted_job_begins_with_the_parents_rows_again(
    api: httpx.Client, parent: str, third: str, session: Session
) -> None:
    job = submit(api, {"continues": parent, "domains": [domain("sales", third, third)]})
    with transaction() as other:
        taken = claim(other, "w", 60)
    assert taken is not None
    evaluate(session, job, 3, law=14.0, sales=33.0)
    with transaction() as other:
        guard(other, taken.lease)
        checkpoint.discard(other, taken.lease, "another format")
    rows = session.scalars(select(JobEvaluation.row).where(JobEvaluation.job_id == job).order_by("row"))
    assert list(rows) == [0, 1, 2]


def test_the_same_continuation_twice_is_one_job(
    api: httpx.Client, parent: str, third: str, session: Session
) -> None:
    body = {"continues": parent, "domains": [domain("sales", third)]}
    key = {"Idempotency-Key": "k"}
    first, again = (api.post("/v1/jobs", json=body, headers=key) for _ in range(2))
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert session.scalar(select(func.count()).select_from(Job).where(Job.continues == parent)) == 1
    # What is inherited, written out, is another body as sent.
    other = api.post("/v1/jobs", json={**body, "sparsity": {"target": 0.6}}, headers=key)
    assert other.json()["code"] == "idempotency_key_reused"


def test_a_continued_job_is_not_deleted(api: httpx.Client, parent: str, third: str, session: Session) -> None:
    children = [submit(api, {"continues": parent, "domains": [domain(name, third)]}) for name in ("a", "b")]
    refused = api.delete(f"/v1/jobs/{parent}")
    assert (refused.status_code, refused.json()["code"]) == (409, "lineage_alive")
    assert all(child in refused.json()["detail"] for child in children)
    for child in children:
        put(session, child, state="cancelled")
        assert api.delete(f"/v1/jobs/{parent}").status_code == 409
        assert api.delete(f"/v1/jobs/{child}").status_code == 204
    assert api.delete(f"/v1/jobs/{parent}").status_code == 204


def test_continuing_races_with_deleting(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    """One of them is second and is told so; there is never a child without its parent."""
    with ThreadPoolExecutor(4) as pool:
        for number in range(10):
            parent = submit(api, inputs.body())
            publish(session, parent)
            body = {"continues": parent, "domains": [domain("x", inputs.first)]}
            calls: dict[str, Callable[[], httpx.Response]] = {
                "continue": lambda body=body: api.post("/v1/jobs", json=body),  # type: ignore[misc]
                "delete": lambda id=parent: api.delete(f"/v1/jobs/{id}"),  # type: ignore[misc]
                "delete again": lambda id=parent: api.delete(f"/v1/jobs/{id}"),  # type: ignore[misc]
            }
            order = sorted(calls, reverse=number % 2 == 1)
            asked = {name: pool.submit(calls[name]) for name in order}
            status = {name: call.result().status_code for name, call in asked.items()}
            made = status.pop("continue")
            if made == 201:
                assert set(status.values()) == {409}
            else:
                assert (made, sorted(status.values())) == (404, [204, 404])


def test_stages_of_a_continuation_are_its_own(
    api: httpx.Client, parent: str, third: str, session: Session
) -> None:
    job = submit(api, {"continues": parent, "domains": [domain("sales", third), domain("hr", third)]})
    rows = session.execute(select(JobStage.stage, JobStage.domain).where(JobStage.job_id == job).order_by("stage"))
    assert [tuple(row) for row in rows] == [(0, "sales"), (1, "hr")]
    history = lineage.history_of(session, session.get_one(Job, job))
    assert history.domains == ["law", "code", "sales", "hr"]
    assert history.lost == frozenset()


def test_the_effort_is_one_for_a_lineage(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    parent = submit(api, inputs.body(method={"name": "admm"}, effort="fast"))
    publish(session, parent)
    body = {"continues": parent, "domains": [domain("sales", inputs.first)]}
    spec = api.post("/v1/jobs", json=body).json()["spec"]
    assert (spec["effort"], spec["method"]["target"]) == ("fast", "dense")
    assert api.post("/v1/jobs", json={**body, "effort": "fast"}).status_code == 201
    refused = api.post("/v1/jobs", json={**body, "effort": "best"}).json()
    assert refused["code"] == "lineage_mismatch"
    assert [error["pointer"] for error in refused["errors"]] == ["/effort"]


def test_a_lineage_from_before_there_were_efforts_goes_on_as_it_was(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    parent = submit(api, inputs.body(method={"name": "admm"}, effort=None))
    publish(session, parent)
    job = session.get_one(Job, parent)
    job.spec = {name: value for name, value in job.spec.items() if name != "effort"}
    session.commit()
    spec = api.post("/v1/jobs", json={"continues": parent, "domains": [domain("sales", inputs.first)]}).json()[
        "spec"
    ]
    assert (spec["effort"], spec["method"], spec["sparsity"]) == (None, job.spec["method"], job.spec["sparsity"])
    assert spec["method"]["target"] == "dense"


def test_a_field_that_an_older_lineage_does_not_name_has_its_default(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    parent = submit(api, inputs.body())
    publish(session, parent)
    job = session.get_one(Job, parent)
    newer = {"channels", "further", "further_statistics", "curvature", "survey_tokens"}
    older = {name: value for name, value in job.spec["sparsity"].items() if name not in newer}
    job.spec = {**job.spec, "sparsity": older}
    session.commit()
    body = {"continues": parent, "domains": [domain("sales", inputs.first)]}
    said = {"channels": "as_stored", "further": [], "survey_tokens": 8192}
    assert api.post("/v1/jobs", json={**body, "sparsity": said}).status_code == 201
    asked = api.post("/v1/jobs", json={**body, "sparsity": {"further": [0.7]}}).json()["spec"]["sparsity"]
    assert asked["further_statistics"] == "own", "as the effort has it: the parent had no further targets"
    refused = api.post("/v1/jobs", json={**body, "sparsity": {"channels": "permuted"}}).json()
    assert [error["pointer"] for error in refused["errors"]] == ["/sparsity/channels"]
