"""The main thread and the runner: who waits, who does the work, and how both stop."""

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Final

GIVE_BACK_SECONDS: Final = 20.0
"""How long a worker that must go waits for its work to be given back."""


def supervise(work: Callable[[], int], stopping: threading.Event) -> int:
    """Run `work` on a thread of its own, and return what it returns.

    Call it in the main thread: Celery's shutdown raises SystemExit in that at any moment, which must never tear a
    commit. Then `stopping` is set, and the work has GIVE_BACK_SECONDS to end.
    """
    ended: Future[int] = Future()

    def run() -> None:
        try:
            ended.set_result(work())
        except BaseException as error:
            ended.set_exception(error)

    # In its caller's context, for the log.
    thread = threading.Thread(target=copy_context().run, args=(run,), name="runner", daemon=True)
    thread.start()
    try:
        ended.exception()  # waits
    except (SystemExit, KeyboardInterrupt):
        # Whoever asks again must not end the giving back.
        for number in (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        stopping.set()
        thread.join(GIVE_BACK_SECONDS)
        raise
    return ended.result()
