"""What a waiting call waits for, and how many one key may hold."""

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.auth.repository import revoke_key
from app.auth.service import create_key
from app.db.engine import transaction
from app.delivery.events import append_event
from app.delivery.transitions import transition
from app.settings import Settings
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobProgress
from app.tables.states import State
from tests.app.conftest import Inputs, MakeKey, client_of, running


def note(session: Session, job: str) -> None:
    append_event(session, session.get_one(Job, job), EventType.note, {})
    session.commit()


def report(session: Session, job: str) -> None:
    session.merge(JobProgress(job_id=job, phase="pruning", fraction=0.5))
    session.commit()


def move(session: Session, job: str, new: State) -> None:
    transition(session, session.get_one(Job, job), new)
    session.commit()


@pytest.mark.parametrize("known", [True, False])
def test_a_call_for_the_state_sleeps_through_progress(
    api: httpx.Client, job: str, session: Session, known: bool
) -> None:
    url = f"/v1/jobs/{job}"
    tag = {"If-None-Match": api.get(url).headers["etag"]} if known else {}
    with ThreadPoolExecutor(3) as pool:

        def held(what: str) -> Future[httpx.Response]:
            return pool.submit(api.get, url, params={"wait": 30, "for": what}, headers=tag)

        change, state, end = held("change"), held("state"), held("end")
        time.sleep(0.5)  # nothing says from outside that a call is held
        report(session, job)
        note(session, job)
        assert change.result().json()["state"] == "queued"
        assert not state.done()
        move(session, job, State.running)
        assert state.result().json()["state"] == "running"
        assert not end.done()
        move(session, job, State.cancelled)
        assert end.result().json()["state"] == "cancelled"


def test_a_state_that_has_changed_since_the_tag_is_told_at_once(
    api: httpx.Client, job: str, session: Session
) -> None:
    url = f"/v1/jobs/{job}"
    old = api.get(url).headers["etag"]
    move(session, job, State.running)
    told = api.get(url, params={"wait": 60, "for": "state"}, headers={"If-None-Match": old})
    assert told.json()["state"] == "running"


def test_a_job_that_is_deleted_meanwhile_is_not_found(api: httpx.Client, job: str, session: Session) -> None:
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(api.get, f"/v1/jobs/{job}", params={"wait": 30})
        time.sleep(0.5)
        session.delete(session.get_one(Job, job))
        session.commit()
        assert held.result().status_code == 404


def test_a_key_that_is_revoked_meanwhile_is_told_nothing(
    api: httpx.Client, service: str, make_key: MakeKey, job: str, session: Session
) -> None:
    with transaction() as other:
        made = create_key(other, "ours", "soon gone", ["jobs:read"])
        key, text = made.key.id, made.text
    with client_of(service, text) as caller, ThreadPoolExecutor(1) as pool:
        held = pool.submit(caller.get, f"/v1/jobs/{job}", params={"wait": 30, "for": "change"})
        time.sleep(0.5)
        assert api.get("/v1/jobs").status_code == 200
        revoke_key(session, key)
        session.commit()
        note(session, job)
        assert held.result().status_code == 401


def test_one_key_holds_so_many_calls_and_no_more(settings: Settings, make_key: MakeKey, inputs: Inputs) -> None:
    first, second = make_key(), make_key()
    with (
        running(settings.model_copy(update={"held_waits": 2})) as url,
        client_of(url, first) as caller,
        client_of(url, second) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        path = f"/v1/jobs/{caller.post('/v1/jobs', json=inputs.body()).json()['id']}"
        waiting: dict[str, Any] = {"params": {"wait": 30}}
        asked = [pool.submit(caller.get, path, **waiting) for _ in range(3)]
        done, still = wait(asked, return_when=FIRST_COMPLETED)
        (refused,) = (each.result() for each in done)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_waits")
        assert int(refused.headers["retry-after"]) > 0
        assert caller.get(path).status_code == 200
        held = [*still, pool.submit(other.get, path, **waiting)]
        time.sleep(0.5)
        assert not any(each.done() for each in held)
        assert caller.post(f"{path}/cancel").status_code == 202
        assert {each.result().json()["state"] for each in held} == {"cancelled"}
        assert caller.get(path, **waiting).status_code == 200


def test_one_project_holds_so_many_calls_by_all_its_keys(
    settings: Settings, make_key: MakeKey, inputs: Inputs
) -> None:
    keys = [make_key() for _ in range(3)]
    with (
        running(settings.model_copy(update={"held_waits_per_project": 2})) as url,
        client_of(url, keys[0]) as first,
        client_of(url, keys[1]) as second,
        client_of(url, keys[2]) as third,
        ThreadPoolExecutor(4) as pool,
    ):
        path = f"/v1/jobs/{first.post('/v1/jobs', json=inputs.body()).json()['id']}"
        asked = [pool.submit(each.get, path, params={"wait": 30}) for each in (first, second, third)]
        done, still = wait(asked, return_when=FIRST_COMPLETED)
        assert [each.result().json()["code"] for each in done] == ["too_many_waits"]
        assert first.post(f"{path}/cancel").status_code == 202
        assert {each.result().json()["state"] for each in still} == {"cancelled"}


def test_a_restart_of_the_database_costs_no_poll(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    """The connection that all polls share is not checked before use."""
    path = f"/v1/jobs/{api.post('/v1/jobs', json=inputs.body()).json()['id']}"
    assert api.get(path).status_code == 200
    others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = current_user"
    session.execute(text(f"SELECT pg_terminate_backend(pid) {others}"))
    session.commit()
    assert api.get(path).status_code == 200
