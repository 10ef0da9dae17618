"""What is written with an event, and how it is signed."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from app.db.clock import from_now
from app.delivery.announcements import JobMessage
from app.delivery.events import append_event
from app.delivery.transitions import transition
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.event_types import EventType
from app.tables.jobs import Job
from app.tables.states import State
from app.tables.webhooks import Webhook, WebhookAttempt, WebhookDelivery
from app.webhooks.posting import Answer, PostError
from tests.app.conftest import Inputs, MakeKey, client_of
from tests.app.webhooks.conftest import Receiver, Send, make_webhook, note, pending
from tests.worker.harness import SCRIPTED, make_tiny_jobs
from worker.attempt import run_jobs

MakeReceiver = Callable[[], Receiver]
LetTimePass = Callable[[], None]
GOOD, BAD = Answer(0.1, 204), Answer(0.1, 500, PostError.bad_status)


def test_a_message_is_signed_and_tells_the_job_as_it_was(
    api: httpx.Client, inputs: Inputs, receiver: Receiver, send: Send, session: Session
) -> None:
    secret = make_webhook(api, receiver.url)["secret"]
    job = api.post("/v1/jobs", json=inputs.body(labels={"team": "search"})).json()["id"]
    api.post(f"/v1/jobs/{job}/cancel")
    assert send() == 3
    bodies = [Verifier(secret).verify(body, headers) for headers, body in receiver.got]
    told = sorted((JobMessage.model_validate(body) for body in bodies), key=lambda each: each.data.event.seq)
    assert [each.type for each in told] == ["job.created", "job.cancel_requested", "job.transition"]
    assert [each.data.job.state for each in told] == ["queued", "queued", "cancelled"]
    events = api.get(f"/v1/jobs/{job}/events").json()["data"]
    by_seq = {body["data"]["event"]["seq"]: body for body in bodies}
    assert [by_seq[each["seq"]]["data"]["event"] for each in events] == events
    last = by_seq[3]["data"]["job"]
    shown = api.get(f"/v1/jobs/{job}").json()
    assert last == {name: shown[name] for name in last}
    assert by_seq[3]["timestamp"] == events[2]["at"]
    assert receiver.got[0][0]["content-type"] == "application/json"


def test_only_what_the_filters_let_through_is_written(
    api: httpx.Client, stranger: httpx.Client, inputs: Inputs, session: Session, receiver: Receiver, send: Send
) -> None:
    filters: list[tuple[dict[str, Any], int]] = [
        ({}, 4),
        ({"events": ["transition"]}, 2),
        ({"events": ["transition"], "states": ["succeeded", "failed", "cancelled"]}, 1),
        ({"states": ["running"]}, 1),
        ({"labels": {"team": "search"}}, 4),
        ({"labels": {"team": "search", "run": "2"}}, 0),
        ({"labels": {"team": "ads"}}, 0),
        ({"events": ["published"]}, 0),
        ({"enabled": False}, 0),
    ]
    made = [make_webhook(api, receiver.url, **fields)["id"] for fields, _ in filters]
    made.append(make_webhook(stranger, receiver.url)["id"])
    job = api.post("/v1/jobs", json=inputs.body(labels={"team": "search", "run": "1"})).json()["id"]
    transition(session, session.get_one(Job, job), State.running)
    note(session, job)
    transition(session, session.get_one(Job, job), State.succeeded)
    session.commit()
    written = dict(
        session.execute(
            select(WebhookDelivery.webhook_id, func.count()).group_by(WebhookDelivery.webhook_id)
        ).all()
    )
    # The note came while it ran, so the second filter by state has two.
    expected = [count for _, count in filters]
    expected[3] = 2
    assert [written.get(id, 0) for id in made] == [*expected, 0]


def test_what_is_rolled_back_is_not_sent(
    api: httpx.Client, job: str, session: Session, receiver: Receiver, send: Send
) -> None:
    make_webhook(api, receiver.url)
    append_event(session, session.get_one(Job, job), EventType.note, {"level": "info", "message": ""})
    session.flush()
    session.rollback()
    assert send() == 0
    note(session, job)
    assert send() == 1


def test_a_webhook_that_is_deleted_meanwhile_does_no_harm_to_the_worker(
    api: httpx.Client, job: str, session: Session
) -> None:
    made = make_webhook(api, "https://hooks.example.com/")
    append_event(session, session.get_one(Job, job), EventType.note, {"level": "info", "message": ""})
    session.flush()
    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(api.delete, f"/v1/webhooks/{made['id']}")
        session.commit()
        assert deleting.result().status_code == 204
    assert pending(session) == 0
    note(session, job)


@pytest.mark.slow
@pytest.mark.parametrize(("gate", "end"), [(None, "succeeded"), ({"max_mean_perplexity": 1.0}, "failed")])
def test_a_whole_job_is_told_in_order(
    session: Session,
    store: ObjectStore,
    settings: Settings,
    service: str,
    make_key: MakeKey,
    receiver: Receiver,
    send: Send,
    gate: dict[str, float] | None,
    end: str,
) -> None:
    """Slow: its events are written by the worker's own transactions, of a job that runs."""
    maker = make_tiny_jobs(session, store, None)
    with client_of(service, make_key()) as api:
        secret = make_webhook(api, receiver.url)["secret"]
        job = maker.make(**({"gate": gate} if gate else {}))
        run_jobs(settings, "here", list(SCRIPTED))
        events = api.get(f"/v1/jobs/{job}/events", params={"limit": 1000}).json()["data"]
    assert send() == len(events)
    bodies = [Verifier(secret).verify(body, headers) for headers, body in receiver.got]
    told = sorted((body["data"] for body in bodies), key=lambda data: data["event"]["seq"])
    assert [data["event"] for data in told] == events
    types = {data["event"]["type"] for data in told}
    assert {"transition", "stage_finished", "evaluated", "published", "attempt_ended"} <= types
    last = told[-1]
    assert (last["event"]["type"], last["job"]["state"], last["job"]["result"] is not None) == (
        "transition",
        end,
        True,
    )
    assert (last["job"]["failure"] or {}).get("code") == ("gate_failed" if gate else None)


def test_no_secret_is_in_the_database(api: httpx.Client, receiver: Receiver, send: Send, session: Session) -> None:
    made = make_webhook(api, receiver.url)
    api.post(f"/v1/webhooks/{made['id']}/test")
    send()
    for table in (Webhook, WebhookDelivery, WebhookAttempt):
        rows = session.execute(select(func.to_jsonb(func.row(*table.__table__.columns)))).scalars()
        assert made["secret"].removeprefix("whsec_") not in json.dumps(list(rows))


def test_both_secrets_sign_while_the_old_one_is_kept(
    api: httpx.Client, receiver: Receiver, send: Send, session: Session
) -> None:
    made = make_webhook(api, receiver.url)
    url = f"/v1/webhooks/{made['id']}"
    new = api.post(f"{url}/rotate").json()["secret"]
    api.post(f"{url}/test")
    send()
    for secret in (made["secret"], new):
        Verifier(secret).verify(receiver.got[0][1], receiver.got[0][0])
    with pytest.raises(WebhookVerificationError):
        Verifier(new).verify(receiver.got[0][1] + " ", receiver.got[0][0])
    session.execute(update(Webhook).values(previous_secret_until=from_now(-1)))
    session.commit()
    newest = api.post(f"{url}/rotate", params={"keep_hours": 0}).json()["secret"]
    api.post(f"{url}/test")
    send()
    headers, body = receiver.got[1]
    Verifier(newest).verify(body, headers)
    for secret in (made["secret"], new):
        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(body, headers)
