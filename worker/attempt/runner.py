"""Claiming and running jobs, one after another."""

import math
import threading
from collections.abc import Sequence

from structlog.contextvars import bound_contextvars

from app.delivery.claim import claim
from app.delivery.lease import renew
from app.settings import Settings
from app.storage import open_store
from worker.attempt.attempt import run_attempt
from worker.attempt.cache import sweep_partial
from worker.attempt.claim_backoff import ClaimBackoff
from worker.attempt.claim_loop import claim_when_possible
from worker.attempt.device_gate import DeviceGate
from worker.attempt.disk_room import wait_for_room
from worker.attempt.engine_process import COMMAND
from worker.attempt.interrupts import Interrupts
from worker.attempt.scratch import sweep
from worker.attempt.supervise import supervise
from worker.harness import has_harness


def run_jobs(
    settings: Settings,
    worker: str,
    command: Sequence[str] = COMMAND,
    backoff: ClaimBackoff | None = None,
    gate: DeviceGate | None = None,
    patience: float = math.inf,
) -> int:
    """Claim and run jobs until there is none; how many attempts were made. Call it in the main thread.

    backoff: what the process has learnt of its host in earlier calls. gate: the device it has.
    patience: seconds of one wait for room on the disk, and of one for the device; then OutOfPatience is raised.
    On SystemExit (Celery's shutdown) the engine is killed and the job given back without costing an attempt.
    """
    stopping, caution, seconds = threading.Event(), backoff or ClaimBackoff(), settings.lease_seconds
    device, harness = gate or DeviceGate(settings), has_harness()

    def work() -> int:
        sweep(settings.work_dir)
        sweep_partial(settings.work_dir)
        store = open_store(settings)
        count = 0
        while True:
            caution.wait(stopping)
            wait_for_room(settings, stopping, patience)
            device.wait(stopping, patience)
            with device.occupied():  # before the claim: no lease runs out while another looks at the device
                claimed = claim_when_possible(
                    stopping,
                    lambda session: claim(session, worker, seconds, harness=harness),
                    lambda session, taken: renew(session, taken.lease, seconds),
                )
                if claimed is None:
                    return count
                interrupts = Interrupts(settings.store_retry_seconds, stopping)
                sound = run_attempt(*claimed, settings, store, interrupts, command, device)
            caution.heed(sound, settings.caution_seconds)
            count += 1

    with bound_contextvars(worker=worker):
        return supervise(work, stopping)
