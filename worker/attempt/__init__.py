"""The worker's side of a job, in the Celery child: everything but the mathematics.

Three kinds of threads. The main thread only waits, because Celery's shutdown raises SystemExit in it at any moment
and must never tear a commit. The runner claims, stages, starts engines, commits and ends attempts. The heartbeat
renews the lease, and kills the engine by its own clock when that fails for too long.
"""

from worker.attempt.claim_backoff import PROCESS_BACKOFF, ClaimBackoff
from worker.attempt.device_gate import DeviceGate, process_gate
from worker.attempt.patience import OutOfPatience
from worker.attempt.runner import run_jobs

__all__ = ["PROCESS_BACKOFF", "ClaimBackoff", "DeviceGate", "OutOfPatience", "process_gate", "run_jobs"]
