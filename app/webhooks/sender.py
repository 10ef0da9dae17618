"""The sender: takes deliveries as it has room for them, posts them side by side, writes down what came of each."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final, TypeVar

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from sqlalchemy.orm import Session, sessionmaker

from app.kit.origin import on_behalf
from app.settings import Settings
from app.webhooks import deliveries
from app.webhooks.deliveries import HOLD_SECONDS, Taken
from app.webhooks.posting import TOTAL_SECONDS, Poster
from app.webhooks.secrets import live_secrets, signed_headers

log = logging.getLogger(__name__)

LATEST_START: Final = HOLD_SECONDS - TOTAL_SECONDS - 5
"""A delivery that was taken longer ago is not begun: it may be another sender's before it ends."""
T = TypeVar("T")


class Sender:
    """One process's. Its receivers cannot hold it up: each delivery has its own time, each project its share."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], poster: Poster) -> None:
        self._settings = settings
        self._sessions = sessions
        self._poster = poster
        self._running: set[asyncio.Task[None]] = set()
        # Apart from the connections, of which it may have no more than the pool has.
        self._threads = ThreadPoolExecutor(settings.database_pool, thread_name_prefix="database")

    async def turn(self) -> int:
        """Take what is due and there is room for, and begin with it; how many that was."""
        room = self._settings.webhook_concurrency - len(self._running)
        if room <= 0:
            return 0
        taken_at = time.monotonic()
        share = max(1, self._settings.webhook_concurrency // 4)
        taken = await self._in_transaction(lambda session: deliveries.take(session, room, share))
        for each in taken:
            task = asyncio.create_task(self._deliver(each, taken_at))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return len(taken)

    async def drain(self) -> None:
        """Wait for what is under way."""
        while self._running:
            await asyncio.wait(self._running)

    async def close(self) -> None:
        await self._poster.close()
        self._threads.shutdown(wait=False)

    async def _deliver(self, taken: Taken, taken_at: float) -> None:
        names: dict[str, str | int] = {"delivery": taken.delivery, "attempt": taken.attempt}
        if taken.job is not None:
            names["job_id"] = taken.job
        with on_behalf(taken.origin, "webhook", names, SpanKind.CLIENT) as current:
            await self._attempt(taken, taken_at, current)

    async def _attempt(self, taken: Taken, taken_at: float, current: Span) -> None:
        if time.monotonic() - taken_at > LATEST_START:
            log.warning("it was taken too long ago and is left to its next attempt")
            return
        now = datetime.now(UTC)
        secrets = live_secrets(taken.webhook, self._settings.secret.get_secret_value(), now)
        headers = signed_headers(taken.delivery, taken.body, secrets, now)
        try:
            answer = await self._poster.post(taken.webhook.url, headers, taken.body.encode())
            hours = self._settings.webhook_failing_hours
            await self._in_transaction(lambda session: deliveries.finish(session, taken, answer, hours))
        except Exception as error:
            # What was taken comes back when its time is over.
            log.exception("no result could be noted (%s)", type(error).__name__)
            return
        if answer.status is not None:
            current.set_attribute("http.response.status_code", answer.status)
        if answer.error is not None:
            current.set_attribute("error.type", answer.error)
            current.set_status(Status(StatusCode.ERROR))
        log.info("sent: %s in %.2f s", answer.error or answer.status, answer.seconds)

    async def _in_transaction(self, act: Callable[[Session], T]) -> T:
        def run() -> T:
            with self._sessions.begin() as session:
                return act(session)

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)
