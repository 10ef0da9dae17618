"""What may be asked of a job, from every state, and when two ask at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery.claim import claim
from app.delivery.lease import LeaseLost
from app.delivery.object_keys import StoredFile
from app.delivery.publish import make_manifest, publish
from app.tables.jobs import Job
from app.tables.outbox import OutboxMessage
from app.tables.states import TERMINAL, State
from app.tables.tasks import Task
from tests.app.conftest import Inputs
from tests.records import summary

FINISHED = dict.fromkeys(("succeeded", "failed", "cancelled"), (409, "job_finished"))
UNFINISHED = dict.fromkeys(("queued", "running", "pausing", "paused", "cancelling"), (409, "job_unfinished"))
EXPECTED: dict[str, dict[str, tuple[int, str]]] = {
    "cancel": {
        **FINISHED,
        "queued": (202, "cancelled"),
        "running": (202, "cancelling"),
        "pausing": (202, "cancelling"),
        "paused": (202, "cancelled"),
        "cancelling": (202, "cancelling"),
        "cancelled": (200, "cancelled"),
    },
    "pause": {
        **FINISHED,
        "queued": (202, "paused"),
        "running": (202, "pausing"),
        "pausing": (202, "pausing"),
        "paused": (200, "paused"),
        "cancelling": (409, "job_cancelling"),
    },
    "resume": {
        **FINISHED,
        "queued": (200, "queued"),
        "running": (200, "running"),
        "pausing": (202, "running"),
        "paused": (202, "queued"),
        "cancelling": (409, "job_cancelling"),
    },
    "retry": {
        **UNFINISHED,
        "succeeded": (409, "job_succeeded"),
        "failed": (201, "queued"),
        "cancelled": (201, "queued"),
    },
}


def put(session: Session, job: str, **columns: Any) -> None:
    session.execute(update(Job).where(Job.id == job).values(**columns))
    session.commit()


def events(api: httpx.Client, job: str) -> list[dict[str, Any]]:
    return list(api.get(f"/v1/jobs/{job}/events").json()["data"])


def test_every_call_is_decided_for_every_state() -> None:
    assert all(set(row) == set(State) for row in EXPECTED.values())


@pytest.mark.parametrize("call", EXPECTED)
def test_a_call_from_any_state(api: httpx.Client, inputs: Inputs, session: Session, call: str) -> None:
    for state, (status, result) in EXPECTED[call].items():
        job = api.post("/v1/jobs", json=inputs.body()).json()["id"]
        put(session, job, state=state)
        response = api.post(f"/v1/jobs/{job}/{call}")
        assert response.status_code == status, (state, response.text)
        body = response.json()
        if status == 409:
            assert (body["code"], body["state"]) == (result, state)
            assert api.get(f"/v1/jobs/{job}").json()["state"] == state
        else:
            assert body["state"] == result, state
            assert response.headers["etag"] == api.get(f"/v1/jobs/{body['id']}").headers["etag"]


def test_pausing_and_resuming_twice_is_doing_it_once(api: httpx.Client, job: str, session: Session) -> None:
    for call, statuses in (("pause", (202, 200)), ("resume", (202, 200))):
        first, again = (api.post(f"/v1/jobs/{job}/{call}") for _ in range(2))
        assert (first.status_code, again.status_code) == statuses
        assert first.json() == again.json()
    moves = [event["data"] for event in events(api, job) if event["type"] == "transition"]
    assert [(move["from"], move["to"], move["reason"]) for move in moves] == [
        ("queued", "paused", "pause_requested"),
        ("paused", "queued", "resume_requested"),
    ]
    assert session.query(OutboxMessage).filter_by(hint=job).count() == 2, "of the submission and of the resumption"


def test_a_paused_job_is_not_claimed_and_keeps_its_place(api: httpx.Client, inputs: Inputs) -> None:
    first, second = (api.post("/v1/jobs", json=inputs.body()).json()["id"] for _ in range(2))
    api.post(f"/v1/jobs/{first}/pause")
    api.post(f"/v1/jobs/{first}/resume")
    api.post(f"/v1/jobs/{second}/pause")
    with transaction() as session:
        taken = claim(session, "w", 60)
        assert taken is not None
        assert taken.lease.job_id == first
        assert claim(session, "w", 60) is None


def test_a_withdrawn_pause_is_forgotten(api: httpx.Client, job: str, session: Session) -> None:
    put(session, job, state="running")
    assert api.post(f"/v1/jobs/{job}/pause").json()["pause_requested"]
    body = api.post(f"/v1/jobs/{job}/resume").json()
    assert (body["state"], body["pause_requested"]) == ("running", False)


@pytest.mark.parametrize("call", ["pause", "cancel"])
def test_a_call_races_with_the_end(api: httpx.Client, inputs: Inputs, call: str) -> None:
    """Either the call or the publication is second, and knows it."""
    manifest = make_manifest([StoredFile("a", "0" * 64, 1, "k")], {})
    answers: set[int] = set()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(12):
            job = api.post("/v1/jobs", json=inputs.body()).json()["id"]
            with transaction() as session:
                taken = claim(session, "w", 60)
                assert taken is not None
            ended = pool.submit(_end, lambda s, lease=taken.lease: publish(s, lease, manifest, summary()))
            response = pool.submit(api.post, f"/v1/jobs/{job}/{call}").result()
            state = ended.result()
            answers.add(response.status_code)
            assert api.get(f"/v1/jobs/{job}").json()["state"] == state
            if response.status_code == 409:
                assert (state, response.json()["state"]) == (State.succeeded, "succeeded")
            else:
                assert (response.status_code, state) == (202, "cancelled" if call == "cancel" else "succeeded")
    assert answers <= {202, 409}


def _end(write: Callable[[Session], State]) -> State:
    with transaction() as session:
        return write(session)


def test_many_callers_pause_and_resume_at_once(api: httpx.Client, job: str) -> None:
    calls = ["pause", "resume"] * 12
    with ThreadPoolExecutor(12) as pool:
        statuses = set(pool.map(lambda call: api.post(f"/v1/jobs/{job}/{call}").status_code, calls))
    assert statuses <= {200, 202}
    moves = [event["data"] for event in events(api, job) if event["type"] == "transition"]
    assert all(before["to"] == after["from"] for before, after in pairwise(moves))
    assert [event["seq"] for event in events(api, job)] == list(range(1, len(moves) + 2))


def test_a_change_is_seen_and_named(api: httpx.Client, job: str) -> None:
    url = f"/v1/jobs/{job}"
    tag = api.get(url).headers["etag"]
    body = {"labels": {"team": "search"}, "priority": 7, "limits": {"max_runtime": "90m"}}
    changed = api.patch(url, json=body, headers={"If-Match": tag})
    assert changed.status_code == 200, changed.text
    found = changed.json()
    assert (found["labels"], found["priority"]) == ({"team": "search"}, 7)
    assert found["limits"] == {"max_runtime": "1h30m", "max_pending": None}
    assert events(api, job)[-1]["data"] == {"fields": ["labels", "limits", "priority"]}
    assert changed.headers["etag"] == api.get(url).headers["etag"] != tag
    same = api.patch(url, json=body)
    assert same.headers["etag"] == changed.headers["etag"], "nothing was changed"
    assert api.patch(url, json={}).json() == found


def test_a_change_of_what_has_changed_meanwhile_is_refused(api: httpx.Client, job: str, session: Session) -> None:
    url = f"/v1/jobs/{job}"
    tag = api.get(url).headers["etag"]
    api.patch(url, json={"priority": 1})
    for value in (tag, f"W/{api.get(url).headers['etag']}", '"x"'):
        refused = api.patch(url, json={"priority": 2}, headers={"If-Match": value})
        assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed"), value
    assert api.patch(url, json={"priority": 3}, headers={"If-Match": "*"}).json()["priority"] == 3
    put(session, job, state="failed")
    late = api.patch(url, json={"priority": 4, "labels": {}})
    assert (late.status_code, late.json()["errors"][0]["pointer"]) == (409, "/priority")
    assert api.patch(url, json={"labels": {"a": "b"}}).json()["labels"] == {"a": "b"}


def test_wrong_changes_are_named(api: httpx.Client, job: str) -> None:
    for body, pointer in [
        ({"priority": 101}, "/priority"),
        ({"priority": None}, "/priority"),
        ({"labels": {"a b": "c"}}, "/labels/a b"),
        ({"limits": {"max_runtime": "12"}}, "/limits/max_runtime"),
        ({"limits": {"max_pending": "0s"}}, "/limits/max_pending"),
        ({"state": "failed"}, "/state"),
    ]:
        refused = api.patch(f"/v1/jobs/{job}", json=body)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer), body


def test_limits_are_part_of_the_job_and_not_of_the_spec(api: httpx.Client, inputs: Inputs) -> None:
    plain = api.post("/v1/jobs", json=inputs.body()).json()
    limited = api.post("/v1/jobs", json=inputs.body(limits={"max_runtime": "36h", "max_pending": "90s"})).json()
    assert limited["limits"] == {"max_runtime": "1d12h", "max_pending": "1m30s"}
    assert limited["spec_digest"] == plain["spec_digest"]
    refused = api.post("/v1/jobs", json=inputs.body(limits={"max_runtime": 5}))
    assert refused.json()["errors"][0]["pointer"] == "/limits/max_runtime"


def test_a_lease_that_is_gone_cannot_publish_after_a_cancel(api: httpx.Client, job: str) -> None:
    with transaction() as session:
        taken = claim(session, "w", 60)
        assert taken is not None
    api.post(f"/v1/jobs/{job}/cancel")
    manifest = make_manifest([StoredFile("a", "0" * 64, 1, "k")], {})
    assert _end(lambda session: publish(session, taken.lease, manifest, summary())) is State.cancelled
    with pytest.raises(LeaseLost):
        _end(lambda session: publish(session, taken.lease, manifest, summary()))


def test_only_finished_jobs_can_be_deleted(
    api: httpx.Client, inputs: Inputs, stranger: httpx.Client, session: Session
) -> None:
    for state in State:
        job = api.post("/v1/jobs", json=inputs.body(), headers={"Idempotency-Key": state}).json()["id"]
        put(session, job, state=state)
        assert stranger.delete(f"/v1/jobs/{job}").status_code == 404
        response = api.delete(f"/v1/jobs/{job}")
        if state in TERMINAL:
            assert response.status_code == 204
            assert api.get(f"/v1/jobs/{job}").status_code == 404
            assert api.delete(f"/v1/jobs/{job}").status_code == 404
            assert session.query(Task).filter_by(kind="garbage", subject_id=job).count() == 1
        else:
            assert (response.status_code, response.json()["code"]) == (409, "job_unfinished")
            assert response.json()["state"] == state
