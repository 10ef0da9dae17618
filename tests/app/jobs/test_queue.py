"""A job's place in the queue is the one that the claims give it."""

from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.auth.repository import ensure_project
from app.db.clock import from_now
from app.delivery.claim import claim
from app.delivery.transitions import transition
from app.settings import Settings
from app.tables.datasets import Dataset
from app.tables.jobs import Job
from app.tables.models import Model
from app.tables.states import State
from app.workers import registry
from tests.app.conftest import Inputs, MakeKey, client_of, running
from tests.jobs import make_dataset, make_model
from tests.machines import GIB, gpu


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """With workers that a busy machine does not forget between two calls."""
    return {**environment, "SECATEUR_LEASE_SECONDS": "60"}


def place(api: httpx.Client, job: str) -> dict[str, Any]:
    response = api.get(f"/v1/jobs/{job}/queue")
    assert response.status_code == 200
    return dict(response.json())


def codes(api: httpx.Client, job: str) -> list[str]:
    return [each["code"] for each in place(api, job)["waits_for"]]


def test_the_place_is_the_order_of_the_claims(
    api: httpx.Client, stranger: httpx.Client, inputs: Inputs, session: Session, project: str
) -> None:
    theirs = stranger_inputs(session)
    made = [(api, inputs.body(priority=priority)) for priority in (0, 5, 0)]
    made += [(stranger, theirs.body(priority=priority)) for priority in (100, 0)]
    callers = {caller.post("/v1/jobs", json=body).json()["id"]: caller for caller, body in made}
    found = {id: place(caller, id) for id, caller in callers.items()}
    order = sorted(found, key=lambda id: int(found[id]["position"]))
    assert [found[id]["position"] for id in order] == [1, 2, 3, 4, 5]
    assert all(each["ahead"] == each["position"] - 1 for each in found.values())
    assert [each["code"] for each in found[order[0]]["waits_for"]] == ["worker"]
    assert [each["code"] for each in found[order[1]]["waits_for"]] == ["jobs"]
    claimed = []
    for _ in order:
        taken = claim(session, "worker", 60)
        session.commit()
        assert taken is not None
        claimed.append(taken.lease.job_id)
    assert claimed == order
    assert place(api, claimed[0] if callers[claimed[0]] is api else claimed[1])["position"] is None


def stranger_inputs(session: Session) -> Inputs:

    theirs = ensure_project(session, "theirs").id
    made = Inputs(
        make_model(session, theirs), make_dataset(session, theirs, "1"), make_dataset(session, theirs, "2")
    )
    session.commit()
    return made


def test_what_a_job_waits_for_is_named(api: httpx.Client, inputs: Inputs, session: Session, job: str) -> None:
    assert codes(api, job) == ["worker"]
    session.execute(update(Model).values(state="pending"))
    session.execute(update(Dataset).where(Dataset.id == inputs.second).values(state="pending"))
    session.execute(update(Job).values(available_at=from_now(100)))
    session.commit()
    waits = place(api, job)["waits_for"]
    assert [(each["code"], each["id"]) for each in waits] == [
        ("model", inputs.model), ("dataset", inputs.second), ("backoff", None),
    ]  # fmt: skip
    assert waits[2]["until"] is not None


def test_a_job_that_no_worker_holds_says_what_it_needs(
    api: httpx.Client, inputs: Inputs, session: Session, job: str
) -> None:
    sizes = {"needs_memory_bytes": 90 * GIB, "needs_host_bytes": 20 * GIB, "needs_device_bytes": 60 * GIB}
    session.execute(update(Job).where(Job.id == job).values(**sizes))
    session.commit()
    assert codes(api, job) == ["worker"], "nothing is known of any"
    registry.register(session, "small", gpu(24))
    session.commit()
    (wait,) = place(api, job)["waits_for"]
    assert wait["code"] == "memory"
    assert wait["needs"] == {name.removeprefix("needs_"): float(size) for name, size in sizes.items()}
    registry.register(session, "large", gpu(80))
    session.commit()
    assert codes(api, job) == ["worker"]
    session.execute(update(Job).where(Job.id == job).values(estimate_due_at=from_now(60)))
    session.commit()
    (wait,) = place(api, job)["waits_for"]
    assert (wait["code"], wait["until"] is not None) == ("estimate", True)


def test_a_job_with_tasks_says_that_no_worker_has_the_harness(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    job = api.post("/v1/jobs", json=inputs.body(tasks=[{"name": "arc_easy"}])).json()["id"]
    registry.register(session, "plain", gpu(80))
    session.commit()
    assert codes(api, job) == ["harness"]
    registry.register(session, "small", gpu(24, harness="0.4.13"))
    sizes = {"needs_memory_bytes": 90 * GIB, "needs_host_bytes": 20 * GIB, "needs_device_bytes": 60 * GIB}
    session.execute(update(Job).where(Job.id == job).values(**sizes))
    session.commit()
    assert codes(api, job) == ["memory"], "the one that has it is too small"


def test_a_project_at_its_limit_waits_for_itself(
    settings: Settings, make_key: MakeKey, inputs: Inputs, session: Session
) -> None:
    changed = settings.model_copy(update={"quota_running_jobs": 1})
    with running(changed) as url, client_of(url, make_key()) as api:
        for _ in range(2):
            api.post("/v1/jobs", json=inputs.body())
        assert claim(session, "worker", 60) is not None
        session.commit()
        waiting = api.get("/v1/jobs", params={"state": "queued"}).json()["data"][0]["id"]
        assert codes(api, waiting) == ["quota"]


@pytest.mark.parametrize("state", [State.running, State.paused, State.cancelled])
def test_a_job_that_is_not_queued_has_no_place(
    api: httpx.Client, job: str, session: Session, state: State
) -> None:
    transition(session, session.get_one(Job, job), state)
    session.commit()
    assert place(api, job) == {
        "object": "queue_place", "job": job, "state": state, "position": None, "ahead": None, "waits_for": [],
    }  # fmt: skip
