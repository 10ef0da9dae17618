"""The main thread and the runner: who starts processes, who does the work, and how both stop."""

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

from app.delivery.claim import Claim, claim
from app.delivery.lease import renew
from app.settings import Settings
from app.storage import open_store
from worker.attempt.attempt import Attempt
from worker.attempt.cache import sweep_partial
from worker.attempt.claim_backoff import ClaimBackoff
from worker.attempt.claim_loop import claim_when_possible
from worker.attempt.engine_process import COMMAND, EngineProcess
from worker.attempt.interrupts import Interrupted
from worker.attempt.scratch import sweep

log = logging.getLogger(__name__)

GIVE_BACK_SECONDS: Final = 20.0
"""How long a worker that must go waits for its job to be given back."""
Start = Callable[[], EngineProcess]


def run_jobs(
    settings: Settings, worker: str, command: Sequence[str] = COMMAND, backoff: ClaimBackoff | None = None
) -> int:
    """Claim and run jobs until there is none; how many attempts were made. Call it in the main thread.

    backoff: what the process has learnt of its host in earlier calls.
    On SystemExit (Celery's shutdown) the engine is killed and the job given back without costing an attempt.
    """
    runner = Runner(settings, worker, command, backoff or ClaimBackoff())
    try:
        runner.start()
        runner.serve()
    except (SystemExit, KeyboardInterrupt):
        # No second signal may disturb the orderly end.
        for number in (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        runner.shut_down()
        raise
    return runner.result()


class Runner:
    """A thread that does everything, and a queue of processes that the main thread starts for it."""

    def __init__(self, settings: Settings, worker: str, command: Sequence[str], backoff: ClaimBackoff) -> None:
        self._settings = settings
        self._backoff = backoff
        self._worker = worker
        self._command = command
        self._requests: queue.SimpleQueue[tuple[Start, Future[EngineProcess]] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._attempt: Attempt | None = None
        self._count = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="runner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def serve(self) -> None:
        """Start processes for the runner until it is done."""
        while (request := self._requests.get()) is not None:
            start, answer = request
            try:
                answer.set_result(start())
            except Exception as error:
                answer.set_exception(error)

    def shut_down(self) -> None:
        """Kill the engine, give the job back, end the thread; within a bounded time."""
        self._stopping.set()
        deadline = time.monotonic() + GIVE_BACK_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            attempt = self._attempt
            if attempt is not None:
                attempt.shut_down()
            self._thread.join(0.2)

    def result(self) -> int:
        """Attempts made. Raises what ended the thread."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._count

    def _run(self) -> None:
        try:
            sweep(self._settings.work_dir)
            sweep_partial(self._settings.work_dir)
            store = open_store(self._settings)
            while (claimed := self._claim()) is not None:
                taken, since = claimed
                self._attempt = Attempt(taken, since, self._settings, store, self._spawn, self._command)
                self._attempt.run()
                self._backoff.heed(self._attempt.sound, self._settings.caution_seconds)
                self._attempt = None
                self._count += 1
        except BaseException as error:
            self._error = error
        finally:
            self._requests.put(None)

    def _claim(self) -> tuple[Claim, float] | None:
        self._backoff.wait(self._stopping)
        seconds = self._settings.lease_seconds
        return claim_when_possible(
            self._stopping,
            lambda session: claim(session, self._worker, seconds),
            lambda session, taken: renew(session, taken.lease, seconds),
        )

    def _spawn(self, start: Start) -> EngineProcess:
        answer: Future[EngineProcess] = Future()
        self._requests.put((start, answer))
        while True:
            try:
                return answer.result(timeout=0.5)
            except TimeoutError:
                if self._stopping.is_set():
                    raise Interrupted from None
