"""A job's events and log lines as they come: pages that wait for the next row, and streams of server-sent events.

Both read committed rows by their number, in bounded batches, so that a reader who comes back goes on where he was.
While they wait they hold neither a connection to the database nor a thread; what ends them is looked at after each
wait: the job's end, its deletion, the key's end, the server's stop.
"""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from fastapi import Request, Response
from sqlalchemy import ARRAY, Connection, Select, String, any_, bindparam, func, select
from sqlalchemy.orm import Session
from sse_starlette import ServerSentEvent

from app.auth.scopes import Scope
from app.backend import Backend, read_alone
from app.history.streaming import PING_SECONDS, Stream
from app.jobs import repository
from app.jobs.lookup import Asked, look
from app.jobs.schemas import EventRead, LogRead
from app.jobs.service import JobNotFound
from app.kit.pagination import Listing, PageRequest
from app.kit.problems import FieldError, Invalid, Unauthorized, exists
from app.kit.replies import reply
from app.kit.waiting import Hold, Holder, Mark, Probe, Wanted
from app.tables.jobs import Job, JobLog
from app.tables.states import TERMINAL

MOST_ROWS: Final = 100
"""Rows that a stream reads at once; a slow reader has no more of them held for him."""
RETRY_MILLISECONDS: Final = 2000
"""After so long a reader whose connection broke should come back."""
SPREAD_MILLISECONDS: Final = (1000, 5000)
"""The same after the server's stop: not all at once."""
_ESCAPED: Final = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"}
"""Ends of lines to some readers, though not to the protocol."""
VARY: Final = {"Vary": "Accept"}


def _probe(name: str, number: Any) -> Probe:
    ids = bindparam("ids", type_=ARRAY(String))
    query: Select[Any] = select(Job.id, Job.state, number).where(Job.id == any_(ids))
    return Probe(name, query)


_NEWEST_LINE: Final = select(func.max(JobLog.seq)).where(JobLog.job_id == Job.id).scalar_subquery()


@dataclass(frozen=True)
class Feed:
    """One kind of numbered rows of a job."""

    probe: Probe
    """Its marks: the job's state, and the number of the newest row."""
    rows: Callable[[str, int], Listing]
    show: type[EventRead] | type[LogRead]
    event: Callable[[Any], str]
    """The type of a row's message."""


EVENTS: Final = Feed(_probe("events", Job.last_event), repository.events, EventRead, lambda row: str(row.type))
LOGS: Final = Feed(_probe("logs", func.coalesce(_NEWEST_LINE, 0)), repository.logs, LogRead, lambda row: "log")


class Question(NamedTuple):
    """What comes behind `after` in a job's feed; at most `most` rows."""

    feed: Feed
    job: str
    after: int
    most: int


@dataclass(frozen=True)
class Batch:
    """Rows as they are sent. The mark was read before them: what a finished job has said is then all there."""

    mark: Mark
    last: int
    """Number of the last row; where the question began when there is none."""
    messages: tuple[bytes, ...]


def read_batches(connection: Connection, questions: Sequence[Question]) -> list[Batch | None]:
    """The answer to each, made once for all who ask the same; None of a job that is gone."""
    with Session(connection, expire_on_commit=False) as session:
        found = {question: _read(session, question) for question in dict.fromkeys(questions)}
    return [found[question] for question in questions]


def _read(session: Session, question: Question) -> Batch | None:
    feed, job, after, most = question
    mark = _mark(session, feed, job)
    if mark is None:
        return None
    rows = [row[0] for row, _ in feed.rows(job, after).read(session, None, most)]
    return Batch(mark, rows[-1].seq if rows else after, tuple(_message(feed, row) for row in rows))


def _mark(session: Session, feed: Feed, job: str) -> Mark | None:
    row = session.execute(feed.probe.statement, {"ids": [job]}).one_or_none()
    return None if row is None else tuple(row)[1:]


def _message(feed: Feed, row: Any) -> bytes:
    data = feed.show.model_validate(row).model_dump_json().translate(_ESCAPED)
    return ServerSentEvent(data, event=feed.event(row), id=str(row.seq), sep="\n").encode()


@dataclass(frozen=True)
class Reader:
    """Who reads a feed of which job. digest: the key's, which may end meanwhile."""

    backend: Backend
    request: Request
    feed: Feed
    job: str
    holder: Holder
    digest: bytes

    async def page(self, after: int, page: PageRequest, wait: float) -> Response:
        """A page, which may wait for its first row while the job goes on.

        Raises JobNotFound, Unauthorized, TooManyWaits.
        """

        async def look() -> tuple[Response, Wanted | None]:
            await self._check()
            return await read_alone(self.backend, lambda session: self._page(session, after, page))

        hold = Hold(self.backend.watcher, self.request, self.holder, wait)
        return await hold.answer(self.feed.probe, self.job, look)

    async def stream(self, after: int, most: int) -> Response:
        """Messages numbered above `after` until the job's end; 204 when they have all been read.

        most: rows that are read at once. Raises JobNotFound, Unauthorized, Invalid, TooManyWaits.
        """
        await self._check()
        state, newest = (await self._ask(after, 1)).mark
        if after > newest:
            raise Invalid(errors=[FieldError("is above the newest number there is", parameter="Last-Event-ID")])
        if state in TERMINAL and after == newest:
            return Response(status_code=204, headers=VARY)
        return Stream(self._messages(after, min(most, MOST_ROWS)), self.backend.watcher, self.holder, VARY)

    async def _messages(self, after: int, most: int) -> AsyncIterator[ServerSentEvent | bytes]:
        yield ServerSentEvent(retry=RETRY_MILLISECONDS)
        watcher = self.backend.watcher
        while await self._may_go_on():
            batch = await self._ask(after, most)
            for message in batch.messages:
                yield message
            after = batch.last
            if watcher.stopping.is_set():
                # In no need of secrecy.
                pause = random.randint(*SPREAD_MILLISECONDS)  # noqa: S311
                yield ServerSentEvent(retry=pause, comment="the server stops; come back")
                return
            if len(batch.messages) == most:
                continue
            if batch.mark[0] in TERMINAL:
                return
            await watcher.changed(self.feed.probe, self.job, batch.mark, PING_SECONDS)

    async def _ask(self, after: int, most: int) -> Batch:
        """Raises JobNotFound."""
        question = Question(self.feed, self.job, after, most)
        return exists(await self.backend.batches(read_batches).ask(question), JobNotFound)

    async def _check(self) -> None:
        """The key works, and the job is its project's. Raises Unauthorized, JobNotFound."""
        principal, standing = await self.backend.batches(look).ask(Asked(self.digest, self.job))
        if principal is None or not principal.may(Scope.jobs_read):
            raise Unauthorized
        if standing is None:
            raise JobNotFound

    async def _may_go_on(self) -> bool:
        try:
            await self._check()
        except (Unauthorized, JobNotFound):
            return False
        return True

    def _page(self, session: Session, after: int, page: PageRequest) -> tuple[Response, Wanted | None]:
        mark = exists(_mark(session, self.feed, self.job), JobNotFound)
        found = page.page(session, self.feed.rows(self.job, after), self.feed.show.model_validate)
        settled = bool(found.data) or mark[0] in TERMINAL
        return reply(found, headers=VARY), None if settled else lambda now: now != mark
