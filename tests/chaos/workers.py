"""The workers' Celery app with an engine of the tests: CHAOS_ENGINE is its command, as a JSON list."""

import json
import os
from functools import partial

import worker.attempt
from worker.celery import app

__all__ = ["app"]

# The task looks it up at each call.
worker.attempt.run_jobs = partial(worker.attempt.run_jobs, command=json.loads(os.environ["CHAOS_ENGINE"]))
