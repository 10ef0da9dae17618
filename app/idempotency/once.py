"""`Idempotency-Key`: a call that makes something makes it once (draft-ietf-httpapi-idempotency-key-header).

The first answer is written in the transaction that makes the thing, so that both exist or neither, and comes again
byte for byte. A call takes part by the parameter `once: Once` behind its `auth` and `session`, by
`problems(*ONCE, …)`, and by making what it makes in `await once.run(lambda: …)`.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.auth.service import Principal
from app.backend import Backend, BackendDep, UnitOfWork
from app.idempotency import repository
from app.idempotency.repository import Kept
from app.kit.answers import Answered, drop_hooks, run_hooks
from app.kit.fields import VISIBLE
from app.kit.json_body import is_json
from app.kit.problems import Problem
from app.kit.sealing import Unreadable, seal, unseal
from app.tables.idempotency import IdempotencyKey
from secateur.spec.job import canonical_digest

WAIT_SECONDS: Final = 2.0
"""So long a repetition waits for the first call's answer; it holds neither a connection nor a thread meanwhile."""
LOOK_SECONDS: Final = 0.05
LONGEST_LOOK: Final = 0.4
GRACE_SECONDS: Final = 5.0
"""What a call that waits may take beyond its wait before its record counts as complete."""
_PURPOSE: Final = "idempotency"
_COMPUTED: Final = {"content-length"}

KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=VISIBLE,
        description="Names this request, for example a UUID. Repeated with the same key and body, the call makes "
        "nothing anew: the first answer comes again, marked `Idempotency-Replayed: true`.",
    ),
]


class KeyInFlight(Problem):
    status, code, title = 409, "idempotency_key_in_flight", "This Idempotency-Key is being worked on"

    def __init__(self) -> None:
        super().__init__("Repeat the request in a second.", headers={"Retry-After": "1"})


class KeyReused(Problem):
    status, code, title = 422, "idempotency_key_reused", "The Idempotency-Key was used for another request"


ONCE: Final = (KeyInFlight, KeyReused)
"""What every call that takes the header can answer."""


@dataclass
class Call:
    """One call that may be a repetition."""

    request: Request
    session: Session
    backend: Backend
    principal: Principal
    key: str | None
    open_seconds: float = 0

    @property
    def project(self) -> str:
        return self.principal.project

    async def run(
        self, work: Callable[[], Response], digest: str | None = None, *, personal: bool = False
    ) -> Response:
        """What `work` answers, in a thread and in the session's transaction; or what it answered the first time.

        digest: of the body, where the endpoint has read it itself; a JSON body's is known. personal: for an answer
        with a secret, which comes again for the same API key alone.
        Raises KeyInFlight, KeyReused, and what `work` raises.
        """
        if self.key is not None and digest is None:
            digest = await _json_digest(self.request)
        owner = self.principal.key if personal else ""
        answer: Response = await self._ask(work, f"{digest or ''}{owner}")
        return answer

    async def look(self, digest: str) -> None:
        """Answer now if this is a repetition: before work outside of the transaction. Keeps nothing.

        Raises Answered, KeyInFlight, KeyReused.
        """
        if self.key is None:
            return
        found = await self._ask(None, digest)
        if found is not None:
            raise Answered(found)

    async def _ask(self, work: Callable[[], Response] | None, digest: str) -> Any:
        wanted = fingerprint(self.request, digest)
        deadline, pause = time.monotonic() + WAIT_SECONDS, LOOK_SECONDS
        while True:
            try:
                return await run_in_threadpool(self._once, work, wanted)
            except KeyInFlight:
                if time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_LOOK)

    def _once(self, work: Callable[[], Response] | None, wanted: str) -> Response | None:
        """All in one thread: with the key in hand nobody waits for a thread. Raises KeyInFlight, KeyReused."""
        replay = self._take(self.key, wanted) if self.key is not None else None
        if replay is not None or work is None:
            self.session.rollback()
            if replay is not None:
                drop_hooks(self.request)
            return replay
        response = work()
        if self.key is not None:
            self._keep(self.key, wanted, response)
        run_hooks(self.request, response)
        self.session.commit()  # in the thread that has done the work; whoever ends the session finds nothing left
        return response

    def stay_open(self, seconds: float) -> None:
        """The call waits for so long after `run`, and `close` says its last word."""
        self.open_seconds = seconds + GRACE_SECONDS

    def close(self, response: Response) -> None:
        """The last word of a call that has stayed open, in a transaction of its own."""
        if self.key is None:
            return
        with self.backend.sessions.begin() as session:
            body = self._seal(self.key, response)
            repository.close(session, self.project, self.key, response.status_code, _headers(response), body)

    def _take(self, key: str, wanted: str) -> Response | None:
        """The first answer; None when there is none, and then the key is ours until the transaction ends."""
        if not repository.lock(self.session, self.project, key):
            self.session.rollback()
            raise KeyInFlight
        found = repository.find(self.session, self.project, key)
        if found is None:
            return None
        self.session.rollback()
        if found.fingerprint != wanted:
            raise KeyReused("Take a new key for a new request; this one named another call, query or body.")
        if found.is_open:
            raise KeyInFlight
        return self._replay(key, found)

    def _keep(self, key: str, wanted: str, response: Response) -> None:
        record = IdempotencyKey(
            project_id=self.project,
            key=key,
            fingerprint=wanted,
            status=response.status_code,
            headers=_headers(response),
            body=self._seal(key, response),
            sealed=True,
        )
        repository.add(self.session, record, self.backend.settings.idempotency_hours, self.open_seconds)

    def _replay(self, key: str, kept: Kept) -> Response:
        body = kept.body
        if kept.sealed:
            try:
                body = unseal(self._secret, _PURPOSE, self._place(key), body)
            except Unreadable:
                raise KeyReused("The key was used, and its answer cannot be read any more.") from None
        response = Response(body, kept.status)
        for name, value in kept.headers:
            response.headers[name] = value
        response.headers["Idempotency-Replayed"] = "true"
        return response

    def _seal(self, key: str, response: Response) -> bytes:
        return seal(self._secret, _PURPOSE, self._place(key), bytes(response.body))

    def _place(self, key: str) -> str:
        return f"{self.project} {key}"

    @property
    def _secret(self) -> str:
        return self.backend.settings.secret.get_secret_value()


def fingerprint(request: Request, digest: str) -> str:
    """Of the whole request: the same body means another thing at another address or as another type."""
    type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    meant = "" if is_json(type) or not type else type
    address = (request.method, request.url.path, *map(list, request.query_params.multi_items()))
    return hashlib.sha256(json.dumps([*address, meant, digest]).encode()).hexdigest()


def _headers(response: Response) -> list[list[str]]:
    return [[name, value] for name, value in response.headers.items() if name not in _COMPUTED]


async def _json_digest(request: Request) -> str:
    """Spelling (blanks, order of keys) does not count."""
    if not await request.body():
        return ""
    return await run_in_threadpool(canonical_digest, await request.json())


async def _call(
    request: Request, session: UnitOfWork, backend: BackendDep, idempotency_key: KeyHeader = None
) -> Call:
    principal = request.scope["state"]["principal"]  # of a key that has the scope: its parameter comes before ours
    assert isinstance(principal, Principal)  # noqa: S101 - for the type checker
    return Call(request, session, backend, principal, idempotency_key)


Once = Annotated[Call, Depends(_call)]
