"""A worker without Celery: `python -m tests.worker.driver <engine command…>`. SIGTERM stops it as Celery would."""

import logging
import signal
import sys
from types import FrameType

from app.settings import get_settings
from worker.attempt import run_jobs


def stop(number: int, frame: FrameType | None) -> None:
    sys.exit(3)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(message)s")
    signal.signal(signal.SIGTERM, stop)
    run_jobs(get_settings(), f"driver-{sys.argv[-1]}", sys.argv[1:])
