"""Keeps a lease: renews it, brings back orders, and cries when it may have expired."""

import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Self

from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery.lease import LeaseLost, OwnerRequests
from app.tasks.repository import TaskLost

log = logging.getLogger(__name__)


class LeaseHeartbeat:
    """Two threads. One renews; the other watches the clock, because a renewal can hang in a dead connection.

    The lease counts from the moment before a successful renewal was sent, so it lasts no longer here than in the
    database.
    """

    def __init__(
        self,
        renew: Callable[[Session], OwnerRequests | None],
        *,
        lease_seconds: float,
        heartbeat_seconds: float,
        since: float,
        on_lost: Callable[[], None],
        on_orders: Callable[[OwnerRequests], None] = lambda _: None,
    ) -> None:
        """since: `time.monotonic()` before the claim was sent."""
        self._renew = renew
        self._lease = lease_seconds
        self._heartbeat = heartbeat_seconds
        self._on_lost = on_lost
        self._on_orders = on_orders
        self._deadline = since + lease_seconds
        self._done = threading.Event()
        self._leaving = threading.Event()
        # Each in its maker's context, for the log.
        self._threads = [
            threading.Thread(target=copy_context().run, args=(loop,), name=name, daemon=True)
            for name, loop in (("heartbeat", self._beat), ("fence", self._watch))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def let_go(self) -> None:
        """The lease is about to be given up by its holder: that it is gone is no news any more."""
        self._leaving.set()

    def stop(self) -> None:
        """Stop renewing and watching; a renewal under way is not waited for."""
        self._done.set()

    def _beat(self) -> None:
        pause = self._heartbeat
        while not self._done.wait(pause):
            sent = time.monotonic()
            try:
                with transaction() as session:
                    requests = self._renew(session)
            except (LeaseLost, TaskLost):
                if not self._leaving.is_set():
                    self._lose("was taken by somebody else")
                return
            except Exception as error:
                log.warning("a renewal failed (%s); trying again", type(error).__name__)
                pause = min(1.0, self._heartbeat)
                continue
            self._deadline = sent + self._lease
            pause = self._heartbeat
            if requests is not None:
                self._on_orders(requests)

    def _watch(self) -> None:
        while not self._done.wait(max(0.0, self._deadline - time.monotonic())):
            if time.monotonic() >= self._deadline:
                self._lose("could not be renewed in time")
                return

    def _lose(self, why: str) -> None:
        if not self._done.is_set():
            self._done.set()
            log.error("the lease %s", why)
            self._on_lost()
