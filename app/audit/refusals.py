"""Refused authentications in the audit log: counted, and written every few seconds, so that none can flood it."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request, Response
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from app.audit import repository
from app.kit.addresses import network_of
from app.kit.problems import Forbidden, Unauthorized

log = structlog.get_logger("app.audit")

MOST: Final = 50
"""Kinds of refusals that are told apart in one round; the rest are one number for each problem."""
ACTION: Final = "authenticate"


@dataclass(frozen=True)
class Refusal:
    """One kind of refusal."""

    code: str
    project: str | None = None
    key: str | None = None
    client: str | None = None


class Refusals:
    """Counts refusals until they are written."""

    def __init__(self) -> None:
        self._counts: Counter[Refusal] = Counter()
        self._lock = threading.Lock()

    def note(self, refusal: Refusal) -> None:
        with self._lock:
            known = refusal in self._counts or len(self._counts) < MOST
            self._counts[refusal if known else Refusal(refusal.code)] += 1

    def write(self, sessions: sessionmaker[Session]) -> None:
        """One line for each kind. A database that is away gets them the next time."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            with sessions.begin() as session:
                for each, count in counts.items():
                    repository.note(
                        session,
                        ACTION,
                        each.project,
                        outcome=each.code,
                        actor_project=each.project,
                        key_id=each.key,
                        client=each.client,
                        count=count,
                    )
        except SQLAlchemyError as error:
            log.warning("audit_not_written", reason=type(error).__name__)
            with self._lock:
                self._counts.update(counts)


async def keep_writing(app: FastAPI, sessions: Callable[[], sessionmaker[Session]], seconds: float) -> None:
    """Write what is counted, until cancelled; then once more."""
    try:
        while True:
            await asyncio.sleep(seconds)
            await run_in_threadpool(app.state.refusals.write, sessions())
    finally:
        with suppress(Exception):  # the process ends
            await run_in_threadpool(app.state.refusals.write, sessions())


def count_refusals(app: FastAPI) -> None:
    """Have each 401 and 403 counted in the application's `state.refusals`, and answered as before."""
    app.state.refusals = Refusals()
    answer: Callable[[Request, Exception], Awaitable[Response]] = app.exception_handlers[HTTPException]  # type: ignore[assignment]

    async def counted(request: Request, error: Exception) -> Response:
        principal: Any = request.scope.get("state", {}).get("known")
        project, key = (principal.project, principal.key) if principal is not None else (None, None)
        app.state.refusals.note(
            Refusal(getattr(error, "code", ""), project, key, network_of(request.scope.get("client")))
        )
        return await answer(request, error)

    for kind in (Unauthorized, Forbidden):
        app.add_exception_handler(kind, counted)
