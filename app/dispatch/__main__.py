"""The dispatcher and reaper process: `python -m app.dispatch`. Run as many copies as you like."""

import logging
import signal
import threading
from collections.abc import Callable
from functools import partial

from app.db.engine import get_engine
from app.dispatch.client import is_up
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.housekeeping import clean_round
from app.kit.process import process
from app.kit.turns import note_turn
from app.metrics.database import DatabaseMetrics
from app.metrics.http import show_metrics
from app.settings import Settings, get_settings

log = logging.getLogger("app.dispatch")


def main() -> None:
    """Two loops side by side, so that a hanging broker does not keep the reaper from its work."""
    settings = get_settings()
    with process("dispatcher", settings):
        _serve(settings)


def _serve(settings: Settings) -> None:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    dispatcher = Dispatcher(settings.broker_url.get_secret_value())
    broker_is_up = partial(is_up, settings.broker_url.get_secret_value())
    show_metrics(settings, [DatabaseMetrics(settings, get_engine(), broker_is_up)])
    loops = [
        _start("dispatcher", dispatcher.look, settings.dispatch_seconds, stopping),
        _start("reaper", lambda: clean_round(settings), settings.reaper_seconds, stopping),
    ]
    log.info("dispatching every %gs, reaping every %gs", settings.dispatch_seconds, settings.reaper_seconds)
    stopping.wait()
    for loop in loops:
        loop.join(timeout=10)
    dispatcher.close()


def _start(name: str, act: Callable[[], object], pause: float, stopping: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=_repeat, args=(name, act, pause, stopping), name=name, daemon=True)
    thread.start()
    return thread


def _repeat(name: str, act: Callable[[], object], pause: float, stopping: threading.Event) -> None:
    """Act, rest, act …; an error is logged and the next turn tries again."""
    while not stopping.is_set():
        try:
            act()
            note_turn(get_settings().health_dir, name)
        except Exception as error:
            log.exception("%s: this turn failed (%s)", name, type(error).__name__)
        stopping.wait(pause)


if __name__ == "__main__":
    main()
