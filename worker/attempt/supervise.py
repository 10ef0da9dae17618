"""The main thread and the runner: who starts processes, who does the work, and how both stop."""

import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Protocol

from worker.attempt.engine_process import EngineProcess
from worker.attempt.interrupts import Interrupted

GIVE_BACK_SECONDS: Final = 20.0
"""How long a worker that must go waits for its work to be given back."""
LOOK_SECONDS: Final = 0.5


class Spawn(Protocol):
    """Runs a function in the main thread and gives its result. Raises Interrupted."""

    def __call__(self, start: Callable[[], EngineProcess], /) -> EngineProcess: ...


def supervise(work: Callable[[Spawn], int], stopping: threading.Event) -> int:
    """Run `work` on a thread, start here the processes that it asks for, and return what it returns.

    Call it in the main thread: the kernel ties a process's life to the thread that started it, and Celery's
    shutdown, which raises SystemExit in it at any moment, must never tear a commit. Then `stopping` is set, and
    the work has GIVE_BACK_SECONDS to end.
    """
    asked: queue.SimpleQueue[tuple[Callable[[], EngineProcess], Future[EngineProcess]] | None] = (
        queue.SimpleQueue()
    )
    ended: Future[int] = Future()

    def spawn(start: Callable[[], EngineProcess]) -> EngineProcess:
        answer: Future[EngineProcess] = Future()
        asked.put((start, answer))
        while True:
            try:
                return answer.result(timeout=LOOK_SECONDS)
            except TimeoutError:
                if stopping.is_set():
                    raise Interrupted from None

    def run() -> None:
        try:
            ended.set_result(work(spawn))
        except BaseException as error:
            ended.set_exception(error)
        finally:
            asked.put(None)

    thread = threading.Thread(target=run, name="runner", daemon=True)
    thread.start()
    try:
        while (request := asked.get()) is not None:
            start, answer = request
            try:
                answer.set_result(start())
            except Exception as error:
                answer.set_exception(error)
    except (SystemExit, KeyboardInterrupt):
        # Whoever asks again must not end the giving back.
        for number in (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        stopping.set()
        thread.join(GIVE_BACK_SECONDS)
        raise
    return ended.result()
