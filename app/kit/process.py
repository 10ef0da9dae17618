"""What every process of the service begins and ends with."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from app.kit.logs import configure_logs
from app.kit.tracing import start_tracing, stop_tracing
from app.settings import Settings

log = logging.getLogger("app")


@contextmanager
def process(part: str, settings: Settings, instance: str = "") -> Iterator[None]:
    """Its log and its traces, see `start_tracing`. An exit with words has them in the log, and the status 1."""
    configure_logs(settings)
    start_tracing(part, instance)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.code, str):
            raise
        log.critical("%s", error.code)
        raise SystemExit(1) from None
    finally:
        stop_tracing()
