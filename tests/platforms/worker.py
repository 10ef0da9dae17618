"""A worker without Celery that waits for jobs: `python -m tests.platforms.worker <engine command…>`."""

import sys
import time

from app.settings import get_settings
from worker.attempt import run_jobs

if __name__ == "__main__":
    while True:
        run_jobs(get_settings(), "worker", sys.argv[1:])
        time.sleep(0.1)
