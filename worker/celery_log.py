"""Celery's own words, as lines of the service's log."""

import logging
import os
from typing import Any

from celery.apps import worker as workers
from celery.signals import celeryd_init, setup_logging

from app.kit.logs import configure_logs, formatter
from app.settings import get_settings


@celeryd_init.connect  # type: ignore[untyped-decorator]
def _before_the_first_word(instance: Any, **_: Any) -> None:
    configure_logs(get_settings())
    instance.quiet = True  # no banner
    workers.safe_say = _say


@setup_logging.connect  # type: ignore[untyped-decorator]
def _set_up(loglevel: int, **_: Any) -> None:
    """In place of what Celery would do, which it leaves to whoever answers this signal."""
    configure_logs(get_settings(), loglevel)


def _say(said: object, _: object = None) -> None:
    """In a signal's handler, where a lock of the log may be held: past it."""
    record = logging.LogRecord(workers.__name__, logging.INFO, __file__, 0, str(said), None, None)
    os.write(2, (formatter(get_settings().log_format).format(record) + "\n").encode())
