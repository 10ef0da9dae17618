"""Reading one job, again and again: nothing is made of it that the caller has already, and nobody is kept waiting
for what he did not ask for."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fastapi import Request, Response

from app.auth.dependencies import admit
from app.auth.scopes import Scope
from app.auth.service import Principal
from app.backend import Backend
from app.jobs import repository
from app.jobs.documents import JSON, states_of
from app.jobs.lookup import Asked, Looked, Standing, look, look_whole
from app.jobs.service import JobNotFound
from app.kit.conditions import none_match
from app.kit.problems import Unauthorized, exists
from app.kit.waiting import Hold, Holder, Mark, Wanted
from app.tables.states import TERMINAL


class Awaited(StrEnum):
    """What a waiting call waits for."""

    change = "change"
    state = "state"
    end = "end"


@dataclass(frozen=True)
class Poll:
    """One call that reads a job, whose key is not yet known to be good."""

    backend: Backend
    request: Request
    digest: bytes
    job: str
    if_none_match: str | None
    awaited: Awaited | None
    """By default a change for those who have a tag, and the end for others."""

    async def answer(self, wait: float) -> Response:
        """At once, or when what is awaited has come, or when the time is over.

        Raises Unauthorized, Forbidden, JobNotFound, TooManyWaits.
        """
        principal, first = await self._look()
        found, wanted = self._answer(first, first)
        if wanted is None or wait <= 0:
            return found
        hold = Hold(self.backend.watcher, self.request, Holder(principal.project, principal.key), wait)

        async def look_again() -> tuple[Response, Wanted | None]:
            return self._answer((await self._look_whole())[1], first)

        return await hold.answer(repository.PROBE, self.job, look_again, wanted)

    async def _look(self) -> tuple[Principal, Standing]:
        """Who asks, and how the job stands: whole, if the caller does not have it as it is."""
        asked = Asked(self.digest, self.job)
        if self.if_none_match is None:
            return await self._look_whole()
        principal, standing = self._let_in(await self.backend.batches(look).ask(asked))
        if not none_match(self.if_none_match, standing.etag):
            return principal, standing
        return await self._look_whole()

    async def _look_whole(self) -> tuple[Principal, Standing]:
        return self._let_in(await self.backend.batches(look_whole).ask(Asked(self.digest, self.job)))

    def _let_in(self, looked: Looked) -> tuple[Principal, Standing]:
        principal, standing = looked
        if principal is None:
            raise Unauthorized
        admit(self.request, principal, Scope.jobs_read)
        return principal, exists(standing, JobNotFound)

    def _answer(self, standing: Standing, first: Standing) -> tuple[Response, Wanted | None]:
        """As of now, and what the caller still waits for. first: how the job stood when the call came."""
        headers = {"ETag": standing.etag, "Cache-Control": "private, no-cache"}
        if standing.retry_after is not None:
            headers["Retry-After"] = str(standing.retry_after)
        changed = none_match(self.if_none_match, standing.etag)
        if changed and standing.snapshot is not None:
            found = Response(standing.snapshot.body(), 200, headers, JSON)
        else:
            found = Response(status_code=304, headers=headers)
        awaited = self.awaited or (Awaited.end if self.if_none_match is None else Awaited.change)
        if standing.retry_after is None or self._is_news(awaited, standing, first):
            return found, None
        return found, _WANTED[awaited](standing)

    def _is_news(self, awaited: Awaited, standing: Standing, first: Standing) -> bool:
        """Whether the caller waited for this. He knows what his tags say, or how the job stood at first."""
        known = first.etag if self.if_none_match is None else self.if_none_match
        if awaited is Awaited.change:
            return none_match(known, standing.etag)
        return awaited is Awaited.state and standing.state not in states_of(known)


def _otherwise(part: slice | int, known: object) -> Wanted:
    def differs(mark: Mark | None) -> bool:
        return mark is None or mark[part] != known

    return differs


def _ended(mark: Mark | None) -> bool:
    return mark is None or mark[2] in TERMINAL


_WANTED: Final[dict[Awaited, Callable[[Standing], Wanted]]] = {
    Awaited.change: lambda standing: _otherwise(slice(0, 2), (standing.version, standing.progress)),
    Awaited.state: lambda standing: _otherwise(2, standing.state),
    Awaited.end: lambda _: _ended,
}
"""By what is awaited: see `repository.PROBE` for what a mark has."""
