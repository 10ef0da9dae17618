"""Who changed what is written with the change, and read by those whom it concerns."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.audit.refusals import MOST, Refusal, Refusals
from app.auth.scopes import EVERY, Scope
from app.auth.tokens import new_token
from app.backend import open_backend
from app.db.clock import from_now
from app.dispatch.housekeeping import forget
from app.settings import Settings
from app.tables.audit import AuditEvent
from app.tables.jobs import Job
from tests.app.conftest import Inputs, MakeKey, client_of, running

WITHOUT_LINE = {
    "verify_artifact": "changes nothing",
    "put_model_file": "a part of an upload, whose beginning and end have their lines",
}
"""Calls that are not in the log, and why."""


@pytest.fixture
def everything(service: str, make_key: MakeKey) -> Iterator[httpx.Client]:
    with client_of(service, make_key(scopes=[scope for scope in EVERY if scope is not Scope.admin])) as client:
        yield client


@pytest.fixture
def operator(service: str, make_key: MakeKey) -> Iterator[httpx.Client]:
    with client_of(service, make_key("operators", [Scope.admin])) as client:
        yield client


def log(client: httpx.Client, **filters: Any) -> list[dict[str, Any]]:
    return list(client.get("/v1/audit", params=filters).json()["data"])


def test_each_change_is_one_line(everything: httpx.Client, inputs: Inputs, session: Session) -> None:
    me = everything.get("/v1/whoami").json()
    job = everything.post("/v1/jobs", json=inputs.body(), headers={"X-Request-Id": "r-1"}).json()["id"]
    everything.get(f"/v1/jobs/{job}")
    everything.patch(f"/v1/jobs/{job}", json={"priority": 3})
    everything.post(f"/v1/jobs/{job}/cancel")
    retry = everything.post(f"/v1/jobs/{job}/retry").json()["id"]
    everything.post(f"/v1/jobs/{retry}/cancel")
    everything.delete(f"/v1/jobs/{retry}")
    call = {"params": {"name": "t", "format": "txt"}, "headers": {"Content-Type": "application/octet-stream"}}
    text = everything.post("/v1/datasets/upload", content=b"A.", **call)  # type: ignore[arg-type]
    everything.delete(text.headers["location"])
    everything.put(f"/v1/projects/{me['project']['id']}/hub_token", json={"token": "hf_secret_of_ours"})
    lines = log(everything)
    dataset = text.json()["id"]
    assert [(line["action"], line["object_id"]) for line in reversed(lines)] == [
        ("create_job", job),
        ("change_job", job),
        ("cancel_job", job),
        ("retry_job", retry),
        ("cancel_job", retry),
        ("delete_job", retry),
        ("upload_dataset", dataset),
        ("delete_dataset", dataset),
        ("put_hub_token", me["project"]["id"]),
    ]
    first = lines[-1]
    assert (first["request_id"], first["outcome"], first["client"]) == ("r-1", "done", "127.0.0.1")
    for line in lines:
        assert (line["project"], line["actor_project"], line["key"]) == (
            me["project"]["id"],
            me["project"]["id"],
            me["key"]["id"],
        )
    assert "hf_secret_of_ours" not in everything.get("/v1/audit").text
    assert [line["object_id"] for line in log(everything, action="cancel_job", object_id=job)] == [job]
    assert log(everything, key="key_x") == []


def test_what_is_refused_or_replayed_changes_nothing_and_is_no_line(
    everything: httpx.Client, inputs: Inputs
) -> None:
    key = {"Idempotency-Key": "k"}
    for _ in range(3):
        everything.post("/v1/jobs", json=inputs.body(), headers=key)
    everything.post("/v1/jobs", json=inputs.body(model="mdl_x"))
    everything.delete("/v1/models/mdl_x")
    assert [line["action"] for line in log(everything)] == ["create_job"]


def test_no_change_without_its_line(everything: httpx.Client, inputs: Inputs, session: Session) -> None:
    """When the line cannot be written, the change does not happen either."""
    session.execute(text("CREATE FUNCTION refuse() RETURNS trigger AS 'BEGIN RAISE ''no''; END' LANGUAGE plpgsql"))
    session.execute(
        text("CREATE TRIGGER refuse BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION refuse()")
    )
    session.commit()
    assert everything.post("/v1/jobs", json=inputs.body()).status_code == 500
    assert everything.delete(f"/v1/datasets/{inputs.first}").status_code == 500
    assert session.scalar(select(func.count()).select_from(Job)) == 0
    assert everything.get(f"/v1/datasets/{inputs.first}").status_code == 200


def test_every_changing_call_has_the_transaction_that_its_line_needs(application: tuple[FastAPI, str]) -> None:
    """By the dependencies of each route, so that a new one cannot be forgotten."""
    from app.backend import unit_of_work

    def calls(dependant: Any) -> set[Any]:
        return {dependant.call}.union(*(calls(each) for each in dependant.dependencies))

    seen = 0
    for included in application[0].routes:
        for route in getattr(getattr(included, "original_router", None), "routes", ()):
            methods = getattr(route, "methods", None) or set()
            if methods & {"POST", "PUT", "PATCH", "DELETE"} and route.name not in WITHOUT_LINE:
                seen += 1
                assert unit_of_work in calls(route.dependant), route.name
    assert seen > 15


def test_an_operators_change_is_in_the_log_of_the_project_that_it_concerns(
    operator: httpx.Client, everything: httpx.Client, stranger: httpx.Client, project: str
) -> None:
    operator.post(f"/v1/projects/{project}/keys", json={"name": "k", "scopes": ["jobs:read"]})
    operator.patch(f"/v1/projects/{project}", json={"name": "renamed"})
    made = operator.post("/v1/projects", json={"name": "third"}).json()["id"]
    ours = log(everything)
    assert [line["action"] for line in ours] == ["change_project", "create_key"]
    assert {line["actor_project"] for line in ours} == {operator.get("/v1/whoami").json()["project"]["id"]}
    assert [line["project"] for line in log(operator, outcome="done")] == [made, project, project]
    assert [line["action"] for line in log(operator, project=made)] == ["create_project"]
    assert everything.get("/v1/audit", params={"project": made}).status_code == 404
    assert len(log(everything, project=project)) == 2
    assert stranger.get("/v1/audit").status_code == 403


def test_a_log_outlives_its_project_and_ends_in_time(
    operator: httpx.Client, settings: Settings, session: Session
) -> None:
    made = operator.post("/v1/projects", json={"name": "short"}).json()["id"]
    operator.delete(f"/v1/projects/{made}")
    assert [line["action"] for line in log(operator, project=made)] == ["delete_project", "create_project"]
    session.execute(
        update(AuditEvent).where(AuditEvent.action == "create_project").values(at=from_now(-86_400 * 366))
    )
    session.commit()
    forget(settings)
    assert [line["action"] for line in log(operator, project=made)] == ["delete_project"]


def test_the_log_is_read_in_pages(everything: httpx.Client, inputs: Inputs) -> None:
    for priority in range(5):
        everything.post("/v1/jobs", json=inputs.body(priority=priority))
    seen, cursor = [], None
    while True:
        page = everything.get("/v1/audit", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [line["id"] for line in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(set(seen)) == len(seen) == 5
    assert seen == sorted(seen, reverse=True)


def test_refused_keys_are_counted(settings: Settings, make_key: MakeKey, session: Session) -> None:
    quick = settings.model_copy(update={"audit_seconds": 0.1})
    admin, weak = make_key("operators", [Scope.admin]), make_key(scopes=[Scope.jobs_read])
    with running(quick) as url:
        with client_of(url, new_token()) as unknown:
            for _ in range(30):
                assert unknown.get("/v1/jobs").status_code == 401
                assert unknown.post("/v1/jobs", json={}).status_code == 401
        with client_of(url, weak) as client:
            assert client.post("/v1/models", json={}).status_code == 403
        with client_of(url, admin) as operator:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                lines = log(operator, action="authenticate")
                if sum(line["count"] for line in lines) == 61:
                    break
                time.sleep(0.05)
            unauthorized = [line for line in lines if line["outcome"] == "unauthorized"]
            assert sum(line["count"] for line in unauthorized) == 60
            assert {(line["project"], line["key"], line["client"]) for line in unauthorized} == {
                (None, None, "127.0.0.1")
            }
            (forbidden,) = (line for line in lines if line["outcome"] == "insufficient_scope")
            assert forbidden["key"].startswith("key_")


def test_a_key_that_wants_more_than_it_has_is_in_the_log(
    settings: Settings, make_key: MakeKey, project: str, session: Session
) -> None:
    quick = settings.model_copy(update={"audit_seconds": 0.1})
    keeper = make_key(scopes=[Scope.keys_write, Scope.audit_read])
    with running(quick) as url, client_of(url, keeper) as client:
        body = {"name": "k", "scopes": ["admin"]}
        assert client.post(f"/v1/projects/{project}/keys", json=body).json()["code"] == "grant_exceeded"
        deadline = time.monotonic() + 20
        while not (lines := log(client, outcome="grant_exceeded")) and time.monotonic() < deadline:
            time.sleep(0.05)
        me = client.get("/v1/whoami").json()["key"]["id"]
        assert [(line["key"], line["project"]) for line in lines] == [(me, project)]


def test_no_flood_of_addresses_fills_the_log(settings: Settings, session: Session) -> None:
    refusals, backend = Refusals(), open_backend(settings)
    for number in range(1000):
        refusals.note(Refusal("unauthorized", client=f"10.0.{number // 256}.{number % 256}"))
    refusals.write(backend.sessions)
    rows = session.execute(select(func.count(), func.sum(AuditEvent.count))).one()
    assert tuple(rows) == (MOST + 1, 1000)
    backend.close()


def test_a_database_that_is_away_gets_the_counts_later(settings: Settings, session: Session) -> None:
    refusals, backend = Refusals(), open_backend(settings)
    refusals.note(Refusal("unauthorized"))
    session.execute(text("ALTER TABLE audit_events RENAME TO elsewhere"))
    session.commit()
    refusals.write(backend.sessions)
    session.execute(text("ALTER TABLE elsewhere RENAME TO audit_events"))
    session.commit()
    refusals.write(backend.sessions)
    assert session.scalar(select(AuditEvent.count)) == 1
    backend.close()
