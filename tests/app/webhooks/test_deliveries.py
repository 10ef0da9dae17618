"""What is sent, tried again, shared out and given up."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.db.engine import transaction
from app.delivery.announcements import ATTEMPTS
from app.dispatch.housekeeping import forget
from app.settings import Settings
from app.tables.webhooks import Webhook, WebhookAttempt, WebhookDelivery
from app.webhooks import deliveries, tidying
from app.webhooks.deliveries import BACKOFF, HOLD_SECONDS, JITTER, MOST_HELD, WEBHOOK_BACKOFF, Taken
from app.webhooks.posting import Answer, PostError
from tests.app.webhooks.conftest import Receiver, Send, make_webhook, note, pending, row

MakeReceiver = Callable[[], Receiver]
LetTimePass = Callable[[], None]
GOOD, BAD = Answer(0.1, 204), Answer(0.1, 500, PostError.bad_status)


def take(limit: int = 100, share: int = 100) -> list[Taken]:
    with transaction() as session:
        return deliveries.take(session, limit, share)


def finish(taken: Taken, answer: Answer, hours: float = 72) -> str | None:
    with transaction() as session:
        return deliveries.finish(session, taken, answer, hours)


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
    # Who looks while others have all webhooks locked finds nothing, and looks again.
    while some := take(3):
        found += some
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


def test_a_log_keeps_so_many(
    api: httpx.Client,
    job: str,
    session: Session,
    receiver: Receiver,
    send: Send,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tidying, "MOST_KEPT", 3)
    made = make_webhook(api, receiver.url)
    for _ in range(5):
        note(session, job)
    send()
    note(session, job)
    log = api.get(f"/v1/webhooks/{made['id']}/deliveries").json()["data"]
    assert forget(settings) == 2
    # The one that waits does not count.
    assert api.get(f"/v1/webhooks/{made['id']}/deliveries").json()["data"] == log[:4]


def test_a_webhook_for_which_too_many_wait_is_disabled_with_a_note(
    api: httpx.Client, job: str, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "MOST_PENDING", 3)
    url = "https://hooks.example.com/"
    made, other = (make_webhook(api, url, events=[type])["id"] for type in ("note", "created"))
    for _ in range(3):
        note(session, job)
    forget(settings)
    assert api.get(f"/v1/webhooks/{made}").json()["enabled"]
    note(session, job)
    forget(settings)
    found = api.get(f"/v1/webhooks/{made}").json()
    assert (found["enabled"], "waited" in found["disabled_reason"]) == (False, True)
    assert api.get(f"/v1/webhooks/{other}").json()["enabled"]
    assert pending(session) == 0
