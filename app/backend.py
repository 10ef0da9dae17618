"""What one API process holds on to: settings, connections, store; and the unit of work of a request."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool

from app.db.engine import make_engine
from app.kit.batches import Batches
from app.kit.waiting import Watcher
from app.quotas.uploads import UploadsUnderWay
from app.settings import Settings
from app.storage import ObjectStore, open_store
from app.storage.disk import Watermark

Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True)
class Backend:
    """Made once by `create_app`."""

    settings: Settings
    engine: Engine
    sessions: sessionmaker[Session]
    reads: sessionmaker[Session]
    """Without transactions."""
    store: ObjectStore
    watcher: Watcher
    uploads: UploadsUnderWay
    _batches: dict[Any, Batches[Any, Any]] = field(default_factory=dict)

    def batches(self, look: Callable[[Connection, Sequence[Q]], Sequence[A]]) -> Batches[Q, A]:
        """Where the process asks this kind of question."""
        found = self._batches.get(look)
        if found is None:
            found = self._batches[look] = Batches(make_engine(self.settings, connections=1, ping=False), look)
        return found

    def close(self) -> None:
        """Give up all connections to the database."""
        self.watcher.close()
        for batches in self._batches.values():
            batches.close()
        self.engine.dispose()


def open_backend(settings: Settings) -> Backend:
    """Connect lazily: nothing is contacted before the first request."""
    engine = make_engine(settings)
    watcher = Watcher(make_engine(settings, connections=1), settings.held_waits, settings.held_waits_per_project)
    plain = engine.execution_options(isolation_level="AUTOCOMMIT")
    sessions, reads = (sessionmaker(each, expire_on_commit=False) for each in (engine, plain))
    uploads = UploadsUnderWay(Watermark(settings))
    return Backend(settings, engine, sessions, reads, open_store(settings), watcher, uploads)


async def get_backend(request: Request) -> Backend:
    """The process's backend. Async, or the framework would take a thread for it."""
    backend = request.app.state.backend
    assert isinstance(backend, Backend)  # noqa: S101 - for the type checker
    return backend


BackendDep = Annotated[Backend, Depends(get_backend)]


async def unit_of_work(request: Request, backend: BackendDep) -> AsyncIterator[Session]:
    """One transaction: committed after the endpoint returns and BEFORE the answer is sent, or rolled back.

    Whoever must wait in between ends it and lets another one begin.
    """
    session = backend.sessions()  # which takes no connection yet
    request.scope["state"]["session"] = session
    try:
        yield session
        if session.in_transaction():
            await to_thread.run_sync(session.commit, limiter=_enders())
    finally:
        if session.in_transaction():
            await to_thread.run_sync(session.close, limiter=_enders())
        else:
            session.close()


@lru_cache
def _enders() -> CapacityLimiter:
    """Threads of their own: all others may be waiting for the connections that are given back here."""
    return CapacityLimiter(10)


# With FastAPI's default scope the commit would come after the answer, and a 201 could be a lie.
UnitOfWork = Annotated[Session, Depends(unit_of_work, scope="function")]


async def read_alone(backend: Backend, read: Callable[[Session], T]) -> T:
    """What `read` finds in the database, in one thread and without a transaction: for what one statement answers.
    It costs a third of a transaction's round trips."""

    def run() -> T:
        with backend.reads() as session:
            return read(session)

    return await run_in_threadpool(run)
