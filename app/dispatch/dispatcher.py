"""Outbox → broker. Leaderless: any number of copies, each row published at least once."""

import logging
from contextlib import nullcontext

import redis
from kombu.exceptions import OperationalError
from opentelemetry.trace import SpanKind

from app.db.engine import transaction
from app.delivery import reaper
from app.dispatch import repository
from app.dispatch.broker import Epoch, Publisher
from app.kit.origin import on_behalf
from app.outbox import Queue
from app.tables.outbox import OutboxMessage
from app.tasks import repository as tasks

log = logging.getLogger(__name__)

BROKER_ERRORS = (OperationalError, redis.RedisError, OSError)


class Dispatcher:
    """One look after the other at the outbox. No transaction is open while the broker is spoken to."""

    def __init__(self, broker_url: str) -> None:
        self._publisher = Publisher(broker_url)
        self._epoch = Epoch(broker_url)

    def look(self) -> int:
        """Publish what is due; how many messages that were. A broker that is down only delays them."""
        self.notice_loss()
        with transaction() as session:
            messages = repository.take(session)
        sent: list[OutboxMessage] = []
        for message in messages:
            if not self._publish(message):
                break
            sent.append(message)
        if messages:
            with transaction() as session:
                repository.mark_published(session, sent)
                repository.put_off(session, messages[len(sent) :])
        return len(sent)

    def notice_loss(self) -> None:
        """Notify of everything that is queued when the broker has lost its data."""
        try:
            if not self._epoch.is_lost():
                return
            with transaction() as session:
                count = reaper.notify_all(session) + tasks.notify_again(session, 0)
            # Only now: whoever dies in between leaves the work to the next look.
            self._epoch.begin()
        except BROKER_ERRORS as error:
            log.warning("the broker does not answer: %s", type(error).__name__)
            return
        log.info("the broker does not know us; %d notifications are published again", count)

    def close(self) -> None:
        self._publisher.close()
        self._epoch.close()

    def _publish(self, message: OutboxMessage) -> bool:
        names = {"queue": message.queue, "hint": message.hint}
        part = on_behalf(message.origin, "dispatch", names, SpanKind.PRODUCER)
        try:
            # What no call has asked for, such as a notification made again, is worth no trace.
            with part if message.origin else nullcontext():
                self._publisher.publish(Queue(message.queue), message.hint)
        except BROKER_ERRORS as error:
            log.warning("could not notify %s: %s", message.queue, type(error).__name__)
            return False
        return True
