"""Jobs until none is left, then the end: `python -m worker.once`, for whoever starts a worker when there is a job.

It asks the database alone, never the broker. SIGTERM gives the running job back, as with a worker of Celery. On a
machine that does not become fit for jobs it ends with a status other than 0: whoever starts the next one may find
a better one.
"""

import logging
import signal
import socket
from types import FrameType
from typing import Final

from app.kit.process import process
from app.settings import Settings, get_settings
from worker.attempt import PROCESS_BACKOFF, DeviceGate, OutOfPatience, process_gate, run_jobs
from worker.attempt.device_watch import DeviceWatch
from worker.attempt.presence import Presence
from worker.device.lock import DeviceTaken

log = logging.getLogger("worker.once")

PATIENCE_SECONDS: Final = 300.0
"""Of one wait for room on the disk, and for the device."""


def main() -> None:
    """Run them, and say how many."""
    settings, name = get_settings(), f"once@{socket.gethostname()}"
    with process("worker-gpu", settings, name):
        _work(settings, name)


def _work(settings: Settings, name: str) -> None:
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
        signal.signal(number, _stop)
    gate = process_gate()
    try:
        finding = gate.look()
    except DeviceTaken as error:
        raise SystemExit(str(error)) from None
    if finding.said:
        log.error("the GPU is not ready: %s", finding.said)
    presence, watch = Presence(settings, name, gate), DeviceWatch(settings, name, gate)
    try:
        presence.start()
        watch.start()
        presence.wait()
        count = run(settings, name, gate)
    finally:
        watch.stop()
        presence.stop()
    log.info("%d attempts were made; no job is left for this worker", count)


def run(settings: Settings, name: str, gate: DeviceGate) -> int:
    """How many attempts were made. SystemExit on a machine that does not become fit."""
    try:
        return run_jobs(settings, name, backoff=PROCESS_BACKOFF, gate=gate, patience=PATIENCE_SECONDS)
    except OutOfPatience as error:
        raise SystemExit(f"{error}; no job is taken") from None


def _stop(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
