"""That a worker's device works, also while there is nothing to do: its row among the devices."""

import logging
import threading
import time
from contextlib import suppress
from typing import Final

from app.db.engine import transaction
from app.delivery.handing_on import ring_for
from app.settings import Settings
from app.workers import devices
from worker.attempt.device_gate import DeviceGate
from worker.device.finding import Finding, Health
from worker.harness import has_harness

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 60.0
"""Between two looks at a device on which nothing is run."""


class DeviceWatch:
    """One thread, which looks, and writes down what was found. Start it behind every fork."""

    def __init__(
        self, settings: Settings, name: str, gate: DeviceGate, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._seconds = settings.heartbeat_seconds
        self._name = name
        self._gate = gate
        self._look_seconds = look_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._live, name="device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Remove the row; one that cannot be removed will expire."""
        self._done.set()
        self._thread.join(2)
        with suppress(Exception), transaction() as session:
            devices.leave(session, self._name)

    def _live(self) -> None:
        due, before = time.monotonic() + self._look_seconds, self._gate.last
        self._write(before)
        while not self._done.wait(self._seconds):
            if time.monotonic() >= due:
                self._gate.look_when_free()
                due = time.monotonic() + self._look_seconds
            found = self._gate.last
            if found.health is not before.health:
                log.warning("device %s is %s: %s", self._gate.wanted, found.health, found.said or "it works")
            works_again = found.health is Health.ready and before.health is not Health.ready
            self._write(found, works_again)
            before = found

    def _write(self, found: Finding, again: bool = False) -> None:
        """again: it works again, and what waited meanwhile has nobody else to ring for it."""
        gate = self._gate
        try:
            with transaction() as session:
                devices.note_health(session, self._name, gate.wanted, gate.uuid, found.health, found.said)
                if again:
                    ring_for(session, self._name, harness=has_harness())
        except Exception as error:
            log.warning("the database did not take how the device is (%s)", type(error).__name__)
