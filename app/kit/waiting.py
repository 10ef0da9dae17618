"""Long polls: one watcher a process wakes all who wait. They hold neither a thread nor a connection meanwhile."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

import structlog
from sqlalchemy import Engine, Executable
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect, Request

from app.kit.calls import WAITED
from app.kit.problems import Problem

log = structlog.get_logger("app.waiting")

MAX_WAIT: Final = 60.0
TICK_SECONDS: Final = 0.25
Mark = tuple[Any, ...]
"""What a probe says of one thing; equal as long as nothing has changed."""
Wanted = Callable[[Mark | None], bool]
"""Whether a mark is what somebody waits for; None is the mark of what is gone."""
T = TypeVar("T")


class Holder(NamedTuple):
    """Whose waiting call it is."""

    project: str
    key: str


class TooManyWaits(Problem):
    status, code, title = 429, "too_many_waits", "The API key or its project has too many waiting calls open"

    def __init__(self, most: int = 1) -> None:
        super().__init__(f"It may hold {most} waiting calls at once.", headers={"Retry-After": "5"})


@dataclass(frozen=True)
class Probe:
    """How things of one kind are looked at: a statement that takes `ids` and selects the id and mark of each."""

    name: str
    statement: Executable


@dataclass(eq=False)
class _Waiter:
    wanted: Wanted
    woken: "asyncio.Future[bool]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def wake(self, found: bool) -> None:
        if not self.woken.done():
            self.woken.set_result(found)


class Watcher:
    """Looks at all that is waited for, with one statement a kind and tick, and only while somebody waits.

    Used from one event loop. engine: its own, so that a busy pool does not delay those who wait.
    """

    def __init__(self, engine: Engine, most_per_key: int, most_per_project: int) -> None:
        self.stopping = asyncio.Event()
        """Set when the server is to stop; nobody waits any more."""
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._most = most_per_key
        self._most_per_project = most_per_project
        self._held: Counter[str] = Counter()
        self._waiters: dict[Probe, dict[str, set[_Waiter]]] = defaultdict(dict)
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watcher")

    @contextmanager
    def holding(self, holder: Holder) -> Iterator[None]:
        """Counts a waiting call (also a stream) while it lasts. Raises TooManyWaits."""
        for name, most in zip(holder, (self._most_per_project, self._most), strict=True):
            if self._held[name] >= most:
                raise TooManyWaits(most)
        self._held.update(holder)
        try:
            yield
        finally:
            self._held.subtract(holder)
            for name in holder:
                if not self._held[name]:
                    del self._held[name]

    async def until(
        self, probe: Probe, id: str, wanted: Wanted, seconds: float, request: Request | None = None
    ) -> bool:
        """True once the thing's mark is what is wanted; False when the time is over or the server stops.

        request: whose body has been read; raises ClientDisconnect when its caller goes away.
        """
        if self.stopping.is_set():
            return False
        waiter, those = _Waiter(wanted), self._waiters[probe]
        those.setdefault(id, set()).add(waiter)
        listener = None if request is None else asyncio.create_task(_listen(request, waiter))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(seconds):
                return await waiter.woken
        except TimeoutError:
            return False
        finally:
            if listener is not None:
                listener.cancel()
            those[id].discard(waiter)
            if not those[id]:
                del those[id]

    async def changed(self, probe: Probe, id: str, seen: Mark | None, seconds: float) -> bool:
        """True once the thing's mark is not the one that was seen; False as with `until`."""
        return await self.until(probe, id, lambda mark: mark != seen, seconds)

    def stop(self) -> None:
        """Everybody who waits goes on at once; to be called on the event loop."""
        self.stopping.set()
        for those in self._waiters.values():
            for waiters in those.values():
                for waiter in waiters:
                    waiter.wake(False)

    def close(self) -> None:
        """Give up the connection."""
        self._thread.shutdown(wait=False)
        self._engine.dispose()

    async def _watch(self) -> None:
        loop, failing = asyncio.get_running_loop(), False
        while any(self._waiters.values()) and not self.stopping.is_set():
            asked = {probe: list(those) for probe, those in self._waiters.items() if those}
            try:
                found = await loop.run_in_executor(self._thread, self._look, asked)
            except SQLAlchemyError as error:
                if not failing:
                    log.warning("cannot_watch", error=type(error).__name__)
                failing = True
            else:
                failing = False
                self._wake(asked, found)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), TICK_SECONDS)

    def _look(self, asked: dict[Probe, list[str]]) -> dict[Probe, dict[str, Mark]]:
        with self._engine.connect() as connection:
            return {
                probe: {row[0]: tuple(row[1:]) for row in connection.execute(probe.statement, {"ids": ids})}
                for probe, ids in asked.items()
            }

    def _wake(self, asked: dict[Probe, list[str]], found: dict[Probe, dict[str, Mark]]) -> None:
        for probe, ids in asked.items():
            for id in ids:
                mark = found[probe].get(id)
                for waiter in self._waiters[probe].get(id, ()):
                    if waiter.wanted(mark):
                        waiter.wake(True)


@dataclass(frozen=True)
class Hold:
    """One waiting call: who waits, for what, and for how long.

    seconds: at most MAX_WAIT of them; 0 asks for the answer as it is.
    """

    watcher: Watcher
    request: Request
    holder: Holder
    seconds: float

    async def answer(
        self,
        probe: Probe,
        id: str,
        look: Callable[[], Awaitable[tuple[T, Wanted | None]]],
        wanted: Wanted | None = None,
    ) -> T:
        """What `look` finds once it wants no more, or as it is when the time is over or the server
        stops. look: the answer, and the mark to wait for when it is not the one that is waited for.
        wanted: what the caller's own look has left to wait for.

        Raises TooManyWaits, ClientDisconnect.
        """
        deadline = time.monotonic() + min(self.seconds, MAX_WAIT)
        if wanted is None:
            found, wanted = await look()
            if wanted is None or self.seconds <= 0:
                return found
        with self.watcher.holding(self.holder):
            self.request.scope["state"][WAITED] = True
            while True:
                left = deadline - time.monotonic()
                over = not await self.watcher.until(probe, id, wanted, left, self.request)
                found, wanted = await look()
                if over or wanted is None:
                    return found


async def _listen(request: Request, waiter: _Waiter) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    if not waiter.woken.done():
        waiter.woken.set_exception(ClientDisconnect())
