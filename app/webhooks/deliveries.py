"""Taking deliveries and writing down what came of them. Leaderless: any number of senders may do this.

A delivery is taken by a short transaction that writes its attempt down, and is then held for a while. No lock and
no connection is kept while the receiver is spoken to. Lock order: the webhook's row, then its deliveries.
"""

import random
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.counts import DELIVERIES, count
from app.db.clock import from_now
from app.delivery.announcements import ATTEMPTS
from app.tables.jobs import Job
from app.tables.webhooks import DeliveryState, Webhook, WebhookAttempt, WebhookDelivery
from app.webhooks.posting import Answer, PostError
from app.webhooks.switching import disable
from secateur.backoff import Backoff

HOLD_SECONDS: Final = 30.0
"""For so long a taken delivery is its sender's; longer than any attempt takes."""
MOST_HELD: Final = 4
"""Deliveries of one webhook under way at once, over all senders; one alone while it fails."""
BACKOFF: Final = Backoff(10.0, longest=4 * 3600.0)
"""Between the attempts of one delivery; all of them take 22 hours."""
WEBHOOK_BACKOFF: Final = Backoff(1.0, longest=300.0)
"""After failures of a webhook in a row, before it is tried with anything at all."""
JITTER: Final = 0.2
"""Share by which a pause is longer or shorter, so that what failed together does not come back together."""
_OUTCOMES: Final = {DeliveryState.pending: "retried", DeliveryState.succeeded: "succeeded"}


@dataclass(frozen=True)
class Taken:
    """One attempt that its sender has to make."""

    delivery: str
    attempt: int
    body: str
    webhook: Webhook
    """As it was when taken."""
    job: str | None = None
    """That it tells of."""
    origin: dict[str, Any] | None = None
    """The call that the job came of: see kit/origin.py."""


_ROOM = f"CASE WHEN w.failures > 0 THEN 1 ELSE {MOST_HELD} END"
_CHOSEN = text(f"""
    WITH held AS (
        SELECT w.project_id, d.webhook_id, count(*) AS held
        FROM webhook_deliveries d JOIN webhooks w ON w.id = d.webhook_id
        WHERE d.held_until > now() GROUP BY 1, 2
    ), project AS (SELECT project_id, sum(held) AS held FROM held GROUP BY 1),
    due AS (
        SELECT w.id, w.taken_at,
               coalesce(p.held, 0)
               + row_number() OVER (PARTITION BY w.project_id ORDER BY w.taken_at, w.id) AS turn
        FROM webhooks w LEFT JOIN held h ON h.webhook_id = w.id LEFT JOIN project p ON p.project_id = w.project_id
        WHERE w.enabled AND w.available_at <= now() AND coalesce(h.held, 0) < {_ROOM}
          AND EXISTS (SELECT FROM webhook_deliveries d
                      WHERE d.webhook_id = w.id AND d.state = 'pending' AND d.available_at <= now())
    )
    SELECT w.id FROM webhooks w JOIN due USING (id)
    WHERE due.turn <= :share ORDER BY due.turn, due.taken_at, w.id
    LIMIT :limit FOR NO KEY UPDATE OF w SKIP LOCKED
""")  # noqa: S608 - constants only
"""The projects take turns, and in each the webhooks; none has more than its share under way."""

# A statement of its own: only with the webhooks locked is the number of what they hold certain.
_OLDEST = text(f"""
    SELECT oldest.id FROM webhooks w CROSS JOIN LATERAL (
        SELECT d.id FROM webhook_deliveries d
        WHERE d.webhook_id = w.id AND d.state = 'pending' AND d.available_at <= now()
        ORDER BY d.available_at, d.id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
    ) oldest
    WHERE w.id = ANY(:webhooks) AND w.enabled AND (
        SELECT count(*) FROM webhook_deliveries h WHERE h.webhook_id = w.id AND h.held_until > now()
    ) < {_ROOM}
""")  # noqa: S608 - constants only


def take(session: Session, limit: int, share: int) -> list[Taken]:
    """At most one delivery of each of at most `limit` webhooks, whose attempts begin now.

    share: how many one project may have under way.
    """
    chosen = session.scalars(_CHOSEN, {"share": share, "limit": limit}).all()
    ids = session.scalars(_OLDEST, {"webhooks": chosen}).all() if chosen else []
    if not ids:
        return []
    until = from_now(HOLD_SECONDS)
    statement = (
        update(WebhookDelivery)
        .where(WebhookDelivery.id.in_(ids))
        .values(held_until=until, available_at=until, attempts=WebhookDelivery.attempts + 1)
        .returning(WebhookDelivery)
        .execution_options(synchronize_session=False)
    )
    deliveries = session.scalars(statement).all()
    session.execute(update(Webhook).where(Webhook.id.in_(chosen)).values(taken_at=func.clock_timestamp()))
    session.add_all(WebhookAttempt(delivery_id=each.id, number=each.attempts) for each in deliveries)
    webhooks = {each.id: each for each in session.scalars(select(Webhook).where(Webhook.id.in_(chosen)))}
    told = {each.job_id for each in deliveries if each.job_id is not None}
    found = session.execute(select(Job.id, Job.origin).where(Job.id.in_(told))).all() if told else ()
    origins: dict[str | None, dict[str, Any] | None] = {row.id: row.origin for row in found}
    return [
        Taken(each.id, each.attempts, each.body, webhooks[each.webhook_id], each.job_id, origins.get(each.job_id))
        for each in deliveries
    ]


def finish(session: Session, taken: Taken, answer: Answer, failing_hours: float) -> DeliveryState | None:
    """Write down what came of an attempt; the delivery's state after it.

    None when the delivery is not this attempt's any more: it was held for too long, or the webhook was deleted or
    disabled meanwhile.
    """
    webhook = session.get(Webhook, taken.webhook.id, with_for_update={"key_share": True}, populate_existing=True)
    delivery = session.get(
        WebhookDelivery, taken.delivery, with_for_update={"key_share": True}, populate_existing=True
    )
    if webhook is None or delivery is None:
        return None
    attempt = session.get_one(WebhookAttempt, (taken.delivery, taken.attempt))
    attempt.seconds, attempt.status = answer.seconds, answer.status
    attempt.error, attempt.response = answer.error, answer.body
    if delivery.attempts != taken.attempt or delivery.state != DeliveryState.pending:
        return None
    delivery.held_until = None
    if answer.error is None:
        _settle(delivery, DeliveryState.succeeded)
        webhook.failures, webhook.failing_since, webhook.available_at = 0, None, func.now()
    else:
        _put_off(delivery, answer)
        _count_failure(session, webhook, answer, failing_hours)
    count(session, DELIVERIES, outcome=_OUTCOMES.get(DeliveryState(delivery.state), "failed"))
    return DeliveryState(delivery.state)


def _put_off(delivery: WebhookDelivery, answer: Answer) -> None:
    """Until its next attempt, if it has one."""
    if delivery.attempts >= delivery.attempts_allowed or answer.error is PostError.gone:
        _settle(delivery, DeliveryState.failed)
        return
    since_sent_again = delivery.attempts - (delivery.attempts_allowed - ATTEMPTS)
    pause = BACKOFF.after(since_sent_again) * _jitter()
    delivery.available_at = from_now(max(pause, min(answer.retry_after or 0.0, BACKOFF.longest)))


def _count_failure(session: Session, webhook: Webhook, answer: Answer, failing_hours: float) -> None:
    webhook.failures += 1
    webhook.available_at = from_now(WEBHOOK_BACKOFF.after(webhook.failures) * _jitter())
    if webhook.failing_since is None:
        webhook.failing_since = func.now()
    session.flush()
    too_long = select(Webhook.failing_since < from_now(-3600 * failing_hours)).where(Webhook.id == webhook.id)
    if answer.error is PostError.gone:
        disable(session, webhook, "The receiver answered 410 Gone.")
    elif session.scalar(too_long):
        disable(session, webhook, f"No attempt has succeeded for {failing_hours:g} hours.")


def _settle(delivery: WebhookDelivery, state: DeliveryState) -> None:
    delivery.state = state
    delivery.finished_at = func.now()


def _jitter() -> float:
    return random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - nothing secret about it
