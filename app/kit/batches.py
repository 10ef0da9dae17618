"""Questions to the database that many requests ask at the same time: those that come while one statement runs go
into the next one together. They share a thread and a connection of their own and wait for no other work."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

MOST: Final = 100
"""Questions in one statement."""
Q = TypeVar("Q")
A = TypeVar("A")


class Batches(Generic[Q, A]):
    """Asks one kind of question. Used from one event loop.

    engine: with a connection of its own, which need not be checked. look: the answers to some questions, in their
    order, by one statement that may stand outside of a transaction and may be made twice.
    """

    def __init__(self, engine: Engine, look: Callable[[Connection, Sequence[Q]], Sequence[A]]) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._look = look
        self._asked: list[tuple[Q, asyncio.Future[A]]] = []
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")

    async def ask(self, question: Q) -> A:
        """The answer. Raises what the database raises."""
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._asked.append((question, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    def close(self) -> None:
        """Give up the connection."""
        self._thread.shutdown(wait=False)
        self._engine.dispose()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._asked:
            batch, self._asked = self._asked[:MOST], self._asked[MOST:]
            try:
                answers: Sequence[Any] = await loop.run_in_executor(
                    self._thread, self._answers, [q for q, _ in batch]
                )
            except Exception as error:
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _answers(self, questions: Sequence[Q]) -> Sequence[A]:
        try:
            return self._look_once(questions)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return self._look_once(questions)  # the database was restarted since the last question

    def _look_once(self, questions: Sequence[Q]) -> Sequence[A]:
        with self._engine.connect() as connection:
            return self._look(connection, questions)
