"""What is written with an event, sent, tried again and given up."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from app.db.clock import from_now
from app.db.engine import transaction
from app.delivery.announcements import ATTEMPTS, JobMessage
from app.delivery.events import append_event
from app.delivery.transitions import transition
from app.dispatch.housekeeping import forget
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.event_types import EventType
from app.tables.jobs import Job
from app.tables.states import State
from app.tables.webhooks import Webhook, WebhookAttempt, WebhookDelivery
from app.webhooks import deliveries
from app.webhooks.deliveries import BACKOFF, HOLD_SECONDS, JITTER, MOST_HELD, WEBHOOK_BACKOFF, Taken
from app.webhooks.posting import Answer, PostError
from tests.app.conftest import Inputs, MakeKey, client_of
from tests.app.webhooks.conftest import Receiver, Send, make_webhook, row
from tests.worker.harness import SCRIPTED, make_tiny_jobs
from worker.attempt import run_jobs

MakeReceiver = Callable[[], Receiver]
LetTimePass = Callable[[], None]
GOOD, BAD = Answer(0.1, 204), Answer(0.1, 500, PostError.bad_status)


def note(session: Session, job: str) -> None:
    append_event(session, session.get_one(Job, job), EventType.note, {"level": "info", "message": "hello"})
    session.commit()


def pending(session: Session) -> int:
    session.rollback()
    query = select(func.count()).select_from(WebhookDelivery).where(WebhookDelivery.state == "pending")
    return session.scalar(query) or 0


def take(limit: int = 100, share: int = 100) -> list[Taken]:
    with transaction() as session:
        return deliveries.take(session, limit, share)


def finish(taken: Taken, answer: Answer, hours: float = 72) -> str | None:
    with transaction() as session:
        return deliveries.finish(session, taken, answer, hours)


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
    append_event(session, session.get_one(Job, job), EventType.note, {})
    session.flush()
    session.rollback()
    assert send() == 0
    note(session, job)
    assert send() == 1


def test_a_webhook_that_is_deleted_meanwhile_does_no_harm_to_the_worker(
    api: httpx.Client, job: str, session: Session
) -> None:
    made = make_webhook(api, "https://hooks.example.com/")
    append_event(session, session.get_one(Job, job), EventType.note, {})
    session.flush()
    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(api.delete, f"/v1/webhooks/{made['id']}")
        session.commit()
        assert deleting.result().status_code == 204
    assert pending(session) == 0
    note(session, job)


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


def test_a_failed_attempt_is_made_again_later_each_time_until_none_is_left(
    api: httpx.Client, job: str, session: Session, receiver: Receiver, send: Send, let_time_pass: LetTimePass
) -> None:
    made = make_webhook(api, receiver.url)
    receiver.status = 500
    note(session, job)
    id = session.scalars(select(WebhookDelivery.id)).one()
    pauses = []
    for number in range(1, ATTEMPTS + 1):
        assert send() == 1
        assert send() == 0, "not before its time"
        delivery = row(session, id)
        assert delivery.attempts == number
        at = session.get_one(WebhookAttempt, (id, number)).started_at
        pauses.append((delivery.available_at - at).total_seconds())
        state = delivery.state
        let_time_pass()
    assert state == "failed"
    assert send() == 0
    for failures, pause in enumerate(pauses[:-1], start=1):
        assert abs(pause / BACKOFF.after(failures) - 1) < JITTER + 0.2, failures
    assert 12 * 3600 < sum(pauses[:-1]) < 30 * 3600
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len({body for _, body in receiver.got}) == 1
    found = api.get(f"/v1/webhooks/{made['id']}/deliveries/{id}").json()
    assert [(each["number"], each["status"], each["error"]) for each in found["tries"]] == [
        (number, 500, "bad_status") for number in range(1, ATTEMPTS + 1)
    ]

    receiver.status = 200
    again = api.post(f"/v1/webhooks/{made['id']}/deliveries/{id}/redeliver").json()
    assert (again["id"], again["state"], again["attempts"]) == (id, "pending", ATTEMPTS)
    assert send() == 1
    assert (row(session, id).state, row(session, id).attempts) == ("succeeded", ATTEMPTS + 1)
    assert receiver.got[-1][0]["webhook-id"] == id
    webhook = api.get(f"/v1/webhooks/{made['id']}").json()
    assert (webhook["failures"], webhook["failing_since"]) == (0, None)


def test_a_receiver_may_ask_for_a_longer_pause(
    api: httpx.Client, job: str, session: Session, receiver: Receiver, send: Send
) -> None:
    make_webhook(api, receiver.url)
    receiver.status, receiver.headers = 503, {"Retry-After": "600"}
    note(session, job)
    send()
    delivery = session.scalars(select(WebhookDelivery)).one()
    pause = delivery.available_at - datetime.now(UTC)
    assert timedelta(seconds=570) < pause <= timedelta(seconds=600)


def test_gone_disables_the_webhook(
    api: httpx.Client, job: str, session: Session, receiver: Receiver, send: Send
) -> None:
    made = make_webhook(api, receiver.url)
    receiver.status = 410
    note(session, job)
    assert send() == 1
    note(session, job)
    assert send() == 0
    webhook = api.get(f"/v1/webhooks/{made['id']}").json()
    assert (webhook["enabled"], "410" in webhook["disabled_reason"]) == (False, True)
    assert session.scalars(select(WebhookDelivery.state)).all() == ["failed"]
    receiver.status = 200
    assert api.patch(f"/v1/webhooks/{made['id']}", json={"enabled": True}).json()["disabled_reason"] is None
    note(session, job)
    assert send() == 1


def test_a_webhook_that_fails_for_too_long_is_disabled_with_a_note(
    api: httpx.Client, job: str, session: Session, receiver: Receiver, send: Send, let_time_pass: LetTimePass
) -> None:
    made = make_webhook(api, receiver.url)
    receiver.status = 500
    note(session, job)
    note(session, job)
    send()
    assert api.get(f"/v1/webhooks/{made['id']}").json()["failing_since"] is not None
    session.execute(update(Webhook).values(failing_since=from_now(-3600 * 71)))
    session.commit()
    let_time_pass()
    send()
    assert api.get(f"/v1/webhooks/{made['id']}").json()["enabled"]
    session.execute(update(Webhook).values(failing_since=from_now(-3600 * 73)))
    session.commit()
    let_time_pass()
    send()
    webhook = api.get(f"/v1/webhooks/{made['id']}").json()
    assert (webhook["enabled"], "72 hours" in webhook["disabled_reason"]) == (False, True)
    assert pending(session) == 0


def test_a_failing_webhook_is_tried_with_one_at_a_time_and_more_and_more_rarely(
    api: httpx.Client, job: str, session: Session
) -> None:
    make_webhook(api, "https://hooks.example.com/")
    for _ in range(10):
        note(session, job)
    first = [each for _ in range(MOST_HELD + 2) for each in take()]
    assert len(first) == MOST_HELD
    for each in first:
        finish(each, BAD)
    webhook = session.scalars(select(Webhook).execution_options(populate_existing=True)).one()
    assert webhook.failures == MOST_HELD
    pause = (webhook.available_at - datetime.now(UTC)).total_seconds()
    longest = WEBHOOK_BACKOFF.after(MOST_HELD)
    assert longest * (1 - JITTER) - 2 < pause <= longest * (1 + JITTER)
    assert take() == []
    session.execute(update(Webhook).values(available_at=from_now(-1)))
    session.commit()
    probe = take()
    assert (len(probe), take()) == (1, [])
    finish(probe[0], GOOD)
    assert len([each for _ in range(MOST_HELD + 2) for each in take()]) == MOST_HELD


def test_a_slow_receiver_holds_up_nobody_else(
    api: httpx.Client, job: str, session: Session, make_receiver: MakeReceiver
) -> None:
    for _ in range(3):
        make_webhook(api, "https://slow.example.com/")
    quick = make_webhook(api, "https://quick.example.com/")["id"]
    for _ in range(20):
        note(session, job)
    held = [each for _ in range(10) for each in take()]
    assert len(held) == 4 * MOST_HELD
    for each in held:
        if each.webhook.id == quick:
            finish(each, GOOD)
    assert {each.webhook.id for each in take()} == {quick}


def test_the_projects_take_turns_and_none_has_more_than_its_share(
    api: httpx.Client, stranger: httpx.Client, job: str, session: Session, project: str
) -> None:
    for _ in range(6):
        make_webhook(api, "https://hooks.example.com/")
    theirs = make_webhook(stranger, "https://hooks.example.com/")["id"]
    note(session, job)
    stranger.post(f"/v1/webhooks/{theirs}/test")
    first = take(limit=2)
    assert len(first) == 2
    assert theirs in {each.webhook.id for each in first}
    assert len(take(limit=100, share=3)) == 2
    assert take(limit=100, share=3) == []
    assert len(take(limit=100, share=100)) == 3


def test_many_senders_never_make_the_same_attempt(api: httpx.Client, job: str, session: Session) -> None:
    for _ in range(8):
        make_webhook(api, "https://hooks.example.com/")
    for _ in range(12):
        note(session, job)
    with ThreadPoolExecutor(6) as pool:
        found = [each for some in pool.map(lambda _: take(3), range(60)) for each in some]
    assert len(found) == len({each.delivery for each in found}) == 8 * MOST_HELD
    held = select(func.count()).where(WebhookDelivery.held_until > func.now()).group_by(WebhookDelivery.webhook_id)
    assert set(session.scalars(held)) == {MOST_HELD}


def test_what_a_lost_sender_held_is_sent_by_another_and_the_late_result_changes_nothing(
    api: httpx.Client, job: str, session: Session, receiver: Receiver, send: Send, let_time_pass: LetTimePass
) -> None:
    made = make_webhook(api, receiver.url)
    note(session, job)
    (lost,) = take()
    delivery = row(session, lost.delivery)
    assert delivery.held_until is not None
    assert 0 < (delivery.held_until - datetime.now(UTC)).total_seconds() <= HOLD_SECONDS
    assert send() == 0
    let_time_pass()
    assert send() == 1
    assert finish(lost, BAD) is None
    found = api.get(f"/v1/webhooks/{made['id']}/deliveries/{lost.delivery}").json()
    assert (found["state"], [each["status"] for each in found["tries"]]) == ("succeeded", [500, 204])
    assert api.get(f"/v1/webhooks/{made['id']}").json()["failures"] == 0


def test_a_result_for_a_deleted_webhook_is_forgotten(api: httpx.Client, job: str, session: Session) -> None:
    made = make_webhook(api, "https://hooks.example.com/")
    note(session, job)
    (taken,) = take()
    assert api.delete(f"/v1/webhooks/{made['id']}").status_code == 204
    assert finish(taken, GOOD) is None


def test_old_deliveries_are_dropped(
    api: httpx.Client, job: str, session: Session, receiver: Receiver, send: Send, settings: Settings
) -> None:
    make_webhook(api, receiver.url)
    note(session, job)
    send()
    note(session, job)
    assert forget(settings) == 0
    session.execute(update(WebhookDelivery).values(created_at=from_now(-10 * 86_400)))
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.finished_at.is_not(None))
        .values(finished_at=from_now(-8 * 86_400))
    )
    session.commit()
    assert forget(settings) == 1
    assert pending(session) == 1


def test_no_secret_is_in_the_database(api: httpx.Client, receiver: Receiver, send: Send, session: Session) -> None:
    made = make_webhook(api, receiver.url)
    api.post(f"/v1/webhooks/{made['id']}/test")
    send()
    for table in (Webhook, WebhookDelivery, WebhookAttempt):
        rows = session.execute(select(func.to_jsonb(func.row(*table.__table__.columns)))).scalars()
        assert made["secret"].removeprefix("whsec_") not in json.dumps(list(rows))


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
