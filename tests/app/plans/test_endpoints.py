"""Plans through HTTP, made by a real dispatcher and a real CPU worker."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.dispatch.housekeeping import forget
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import Job
from app.tables.models import Model
from app.tables.plans import Plan
from app.tables.tasks import Task
from tests.app.conftest import Inputs
from tests.jobs import make_dataset, make_model
from tests.records import PLAN
from tests.tiny import make_tiny_llama
from tests.worker.harness import dispatcher, wait_until, worker


@pytest.fixture
def real(session: Session, project: str, store: ObjectStore, tmp_path: Path) -> Inputs:
    """A tiny model whose files are in the store; texts that no plan reads."""
    model = make_model(session, project, make_tiny_llama(tmp_path / "tiny"), store)
    found = Inputs(model, make_dataset(session, project, "one"), make_dataset(session, project, "two"))
    session.commit()
    return found


def body(inputs: Inputs, **sparsity: Any) -> dict[str, Any]:
    spec = inputs.body(sparsity={"target": 0.5, **sparsity}, evaluation={"sequence_length": 64})
    for domain in spec["domains"]:
        domain["calibration"] = {"samples": 4, "sequence_length": 64}
    return spec


def settled(api: httpx.Client, asked: httpx.Response) -> dict[str, Any]:
    """The plan once it is made; a busy machine may take several waits."""
    for _ in range(4):
        plan = api.get(f"/v1/plans/{asked.json()['id']}", params={"wait": 60}, timeout=90)
        if plan.json()["state"] != "pending":
            break
    return dict(plan.json())


@pytest.mark.slow
def test_plans_are_made_by_the_cpu_queue(
    api: httpx.Client, real: Inputs, environment: dict[str, str], tmp_path: Path, session: Session
) -> None:
    """From the call to a Celery worker's engine and back, with nothing in place of anything."""
    overrides = [
        {"match": "*.mlp.*", "pattern": "2:4", "method": "admm"},
        {"regex": r"model\.layers\.0\.mlp\.(up|gate)_proj\.weight", "skip": True},
    ]
    wrong = [{"match": "*.mlp.*", "target": 0.4}, {"match": "*.mpl.*", "skip": True}]
    with (
        dispatcher(environment, tmp_path / "dispatcher.log"),
        worker(environment, tmp_path / "worker.log", queue="cpu"),
    ):
        asked = api.post("/v1/plans", params={"wait": 0}, json=body(real, overrides=overrides))
        refused = api.post("/v1/plans", json=body(real, overrides=wrong))
        plan, failed = settled(api, asked), settled(api, refused)
    assert (asked.status_code, asked.json()["state"], asked.headers["retry-after"]) == (202, "pending", "1")
    assert asked.headers["location"] == f"/v1/plans/{asked.json()['id']}"

    assert (plan["state"], plan["error"], plan["object"], plan["model"]) == ("ready", None, "plan", real.model)
    result = plan["result"]
    assert result["zeros"] == round(result["weights"] / 2) == sum(entry["zeros"] for entry in result["matched"])
    solvers = {entry["name"]: (entry["pattern"], entry["solver"]) for entry in result["matched"]}
    assert solvers["model.layers.1.mlp.up_proj.weight"] == ("2:4", "admm")
    assert solvers["model.layers.0.self_attn.q_proj.weight"] == ("unstructured", "copal")
    assert "model.layers.0.mlp.up_proj.weight" in {entry["name"] for entry in result["skipped"]}
    assert result["overlaps"][0]["overrides"] == [0, 1]
    estimates = result["estimates"]
    for name in ("seconds", "memory_bytes", "disk_bytes"):
        assert estimates[name]["total"] > 0
        assert estimates[name]["how"]
    assert (estimates["device"], estimates["device_bytes"]) == ("cpu", 0)
    assert estimates["host_bytes"] == estimates["memory_bytes"]["total"]
    assert estimates["operations"] > 1e6
    (fit,) = estimates["workers"]
    assert (fit["workers"], fit["fits"], fit["lacks"], fit["kind"]) == (None, True, [], estimates["kind"])
    assert fit["seconds"] == estimates["seconds"]["total"] == pytest.approx(sum(fit["parts"].values()))
    assert {tuple(entry["statistics"]) for entry in result["matched"]} == {
        ("input_norms",),
        ("input_norms", "gram"),
    }

    assert (failed["state"], failed["result"]) == ("failed", None)
    assert failed["error"]["code"] == "unmatched_override"
    assert failed["error"]["field"] == "/sparsity/overrides/1/match"
    assert session.scalar(select(func.count()).select_from(Job)) == 0
    assert not any((tmp_path / "work" / "scratch").iterdir())


def test_a_plan_is_checked_like_a_job(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    for change, pointer in (
        ({"sparsity": {"target": 2}}, "/sparsity/target"),
        ({"model": "mdl_" + "0" * 32}, "/model"),
        ({"sparsity": {"target": 0.5, "overrides": [{"match": "*"}]}}, "/sparsity/overrides/0"),
    ):
        response = api.post("/v1/plans", json=inputs.body(**change))
        assert response.status_code == 422
        assert [error["pointer"] for error in response.json()["errors"]] == [pointer]
    assert api.post("/v1/plans", json=inputs.body(), params={"wait": -1}).status_code == 422
    assert session.scalar(select(func.count()).select_from(Plan)) == 0


def test_a_waiting_call_is_answered_as_soon_as_the_plan_is_there(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    error = {"code": "unsupported_model", "message": "no", "field": "/model"}

    def make() -> None:
        wait_until(lambda: (session.rollback(), session.query(Plan).count())[1] == 1)
        session.query(Plan).update({"state": "failed", "error": error})
        session.commit()

    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(make)
        response = api.post("/v1/plans", json=inputs.body(), params={"wait": 60}, timeout=90)
        making.result()
    assert (response.status_code, response.json()["state"], response.json()["error"]) == (200, "failed", error)
    assert response.headers["location"] == f"/v1/plans/{response.json()['id']}"
    assert "retry-after" not in response.headers


def test_a_plan_nobody_makes_stays_pending_when_the_wait_is_over(api: httpx.Client, inputs: Inputs) -> None:
    response = api.post("/v1/plans", json=inputs.body(), params={"wait": 0.4})
    assert (response.status_code, response.json()["state"]) == (202, "pending")
    waited = api.get(f"/v1/plans/{response.json()['id']}", params={"wait": 0.4})
    assert (waited.status_code, waited.json()["state"]) == (200, "pending")


def test_old_plans_are_dropped_with_their_tasks(
    api: httpx.Client, inputs: Inputs, session: Session, settings: Settings
) -> None:
    old, young = (api.post("/v1/plans", json=inputs.body()).json()["id"] for _ in range(2))
    session.execute(
        update(Plan).where(Plan.id == old).values(created_at=from_now(-3600 * settings.plan_hours - 60))
    )
    session.commit()
    forget(settings)
    assert api.get(f"/v1/plans/{old}").status_code == 404
    assert api.get(f"/v1/plans/{young}").status_code == 200
    assert session.scalars(select(Task.subject_id)).all() == [young]


def test_a_plan_does_not_hold_its_model(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    plan = api.post("/v1/plans", json=inputs.body()).json()["id"]
    assert api.delete(f"/v1/models/{inputs.model}").status_code == 204
    assert api.get(f"/v1/plans/{plan}").status_code == 404
    assert session.scalar(select(func.count()).select_from(Model)) == 0


def test_plans_are_listed_filtered_and_paged(
    api: httpx.Client, stranger: httpx.Client, real: Inputs, session: Session, settings: Settings
) -> None:
    ids = [api.post("/v1/plans", json=body(real)).json()["id"] for _ in range(3)]
    made = session.get_one(Plan, ids[0])
    estimate = {"total": 7.0, "parts": {}, "how": "made up"}
    estimates = dict.fromkeys(("seconds", "memory_bytes", "disk_bytes"), estimate)
    made.state, made.result = "ready", {"estimates": estimates}
    session.commit()

    def listed(**filters: Any) -> list[str]:
        return [each["id"] for each in api.get("/v1/plans", params=filters).json()["data"]]

    assert listed() == ids[::-1]
    assert listed(state="ready") == ids[:1]
    assert listed(state=["ready", "pending"], model=real.model, method="copal") == ids[::-1]
    assert listed(model="mdl_none") == listed(method="wanda") == listed(created_after="2100-01-01T00:00:00Z") == []
    assert api.get("/v1/plans", params={"method": "bogus"}).status_code == 422
    first = api.get("/v1/plans", params={"limit": 2}).json()
    assert listed(cursor=first["next_cursor"]) == ids[:1]
    (line,) = api.get("/v1/plans", params={"state": "ready"}).json()["data"]
    assert (line["seconds"], line["memory_bytes"], line["method"], line["model"]) == (
        7.0,
        7.0,
        "copal",
        real.model,
    )
    assert "result" not in line
    assert stranger.get("/v1/plans").json()["data"] == []


def test_a_plan_stands_beside_what_jobs_took(
    api: httpx.Client, stranger: httpx.Client, real: Inputs, session: Session
) -> None:
    """What is expected of the quickest kind on which jobs have finished, which took 4, 2 and 1 times as long."""
    id = api.post("/v1/plans", json=body(real)).json()["id"]
    ran = [api.post("/v1/jobs", json=body(real)).json()["id"] for _ in range(3)]
    other = api.post("/v1/jobs", json=body(real, target=0.25)).json()["id"]
    plan = session.get_one(Plan, id)
    figure = {"total": 20.0, "parts": {}, "how": "made up"}
    fit = {"device": "cpu", "fits": True, "lacks": [], "host_bytes": 1.0, "device_bytes": 0.0, "disk_bytes": 1.0}
    workers = [
        fit | {"kind": "quick", "seconds": 5.0, "parts": {}, "fits": False},
        fit | {"kind": "slow", "seconds": 30.0, "parts": {}},
        fit | {"kind": "own", "seconds": 20.0, "parts": {}},
        fit | {"kind": "new", "seconds": 10.0, "parts": {}},
    ]
    estimates = dict.fromkeys(("seconds", "memory_bytes", "disk_bytes"), figure) | {"workers": workers}
    plan.state, plan.result = "ready", PLAN.model_dump(mode="json") | {"estimates": estimates}
    session.commit()
    assert api.get(f"/v1/plans/{id}").json()["calibrated"] is None

    def finish(job: str, seconds: float, **changes: Any) -> None:
        expected = {"seconds": 10.0, "device": "cpu", "kind": "own"} | changes.pop("estimates", {})
        values = {"state": "succeeded", "attempts": 1, "runtime_seconds": seconds, "finished_at": func.now()}
        session.execute(update(Job).where(Job.id == job).values(**values | {"estimates": expected} | changes))
        session.commit()

    for job, seconds in zip([*ran[:2], other], (40.0, 20.0, 10.0), strict=True):
        finish(job, seconds)
    found = api.get(f"/v1/plans/{id}").json()
    assert found["calibrated"] == {
        "seconds": 40.0, "low": 20.0, "high": 80.0, "jobs": 3, "method": "copal", "device": "cpu",
        "kind": "own",
    }  # fmt: skip
    assert found["result"]["estimates"]["seconds"]["total"] == 20.0
    taken = {
        each["id"]: (each["runtime_seconds"], each["expected_seconds"], each["ratio"]) for each in found["jobs"]
    }
    assert taken == {ran[0]: (40.0, 10.0, 4.0), ran[1]: (20.0, 10.0, 2.0), ran[2]: (0.0, None, None)}
    assert found["jobs"][0]["state"] == "queued"
    for wrong in ({"attempts": 2}, {"state": "failed"}, {"method": "wanda"}, {"estimates": {"kind": "slow"}}):
        finish(ran[1], 20.0, **wrong)
        assert api.get(f"/v1/plans/{id}").json()["calibrated"]["jobs"] < 3
        finish(ran[1], 20.0, method="copal")
    assert stranger.get(f"/v1/plans/{id}").status_code == 404
