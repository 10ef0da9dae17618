"""The broker seen from both ends: what the dispatcher and the Celery workers must agree about."""

import uuid
from types import TracebackType
from typing import Any, Final, Self

from celery import Celery
from kombu import Connection, Exchange
from kombu import Queue as KombuQueue

from app.dispatch.client import impatient_client
from app.outbox import Queue

TASKS: Final = {
    Queue.gpu: "secateur.jobs.run",
    Queue.cpu: "secateur.tasks.run",
    Queue.plan: "secateur.plans.run",
}
"""Which Celery task answers the notifications of which queue."""
KEY_PREFIX: Final = "secateur:"
EPOCH_KEY: Final = "secateur:epoch"
PUBLISH_SECONDS: Final = 3
"""A broker that does not answer within this time gets the message later."""

_COMMON: Final[dict[str, Any]] = {
    "global_keyprefix": KEY_PREFIX,
    "socket_keepalive": True,
    # A message of a lost worker then costs a claim that finds nothing; the reaper is the recovery.
    "visibility_timeout": 3600,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
}
WORKER_TRANSPORT: Final[dict[str, Any]] = {
    **_COMMON,
    "socket_connect_timeout": 5,
    # Nothing that a worker asks takes longer. A longer time would hold its whole loop, and so the search for a
    # connection that neither answers nor closes, which is a part of that loop.
    "socket_timeout": 5,
    "health_check_interval": 5,
    "client_name": "secateur-worker",
}
PUBLISHER_TRANSPORT: Final[dict[str, Any]] = {
    **_COMMON,
    "socket_connect_timeout": PUBLISH_SECONDS,
    "socket_timeout": PUBLISH_SECONDS,
    "max_retries": 1,
    "client_name": "secateur-dispatcher",
}


def queues() -> list[KombuQueue]:
    """All queues; each is its own exchange and routing key."""
    return [KombuQueue(name, Exchange(name, type="direct"), routing_key=name) for name in Queue]


class Publisher:
    """Publishes notifications: a Celery message on a connection that gives up after a few seconds."""

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("secateur-dispatcher", broker=broker_url, set_as_current=False)
        self._app.conf.update(task_queues=queues(), task_serializer="json", task_ignore_result=True)
        self._url = broker_url
        self._connection: Connection | None = None

    def publish(self, queue: Queue, hint: str) -> None:
        """Send one message. Raises kombu's or redis' error; the next call connects anew."""
        try:
            if self._connection is None:
                self._connection = Connection(self._url, transport_options=PUBLISHER_TRANSPORT)
            self._app.send_task(
                TASKS[queue],
                kwargs={"hint": hint},
                queue=queue.value,
                connection=self._connection,
                retry=False,
                ignore_result=True,
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection without waiting for anything."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.collect(socket_timeout=0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Epoch:
    """Notices that the broker has lost its data: a key that we once set is no longer there."""

    def __init__(self, broker_url: str) -> None:
        self._client = impatient_client(broker_url, PUBLISH_SECONDS)

    def is_lost(self) -> bool:
        """Whether the broker does not know us. Raises redis.RedisError when it does not answer."""
        return not self._client.exists(EPOCH_KEY)

    def begin(self) -> None:
        """Leave the mark, after everything was published again; another dispatcher may have been quicker."""
        self._client.set(EPOCH_KEY, str(uuid.uuid4()), nx=True)

    def close(self) -> None:
        self._client.close()
