"""That a worker is there, and what it has: its row among the workers, from its start to its end.

A worker that cannot measure itself works all the same.
"""

import logging
import threading
from contextlib import suppress
from typing import Final

from app.db.engine import transaction
from app.delivery.handing_on import ring_for
from app.settings import Settings
from app.workers import registry
from secateur.backoff import Backoff
from secateur.spec.records.machine import Machine
from worker.attempt.device_gate import DeviceGate
from worker.attempt.interrupts import Interrupted
from worker.attempt.machine import SILENT_SECONDS, machine_of
from worker.device.finding import Health
from worker.harness import has_harness

log = logging.getLogger(__name__)

AGAIN: Final = Backoff(10.0, longest=600.0)
"""Between measurements that fail."""


class Presence:
    """One thread, which measures, writes the row and renews it. Start it behind every fork."""

    def __init__(self, settings: Settings, name: str, gate: DeviceGate | None = None) -> None:
        """gate: the worker's device, which is measured once it is known: another would be another machine."""
        self._settings = settings
        self._gate = gate or DeviceGate(settings)
        self._name = name
        self._known = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._live, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        """Until the row is written, or the first try to has failed: a claim before it would know no bounds."""
        self._known.wait(2 * SILENT_SECONDS)

    def stop(self) -> None:
        """Remove the row; one that cannot be removed will expire."""
        self._done.set()
        self._thread.join(2)
        with suppress(Exception), transaction() as session:
            registry.leave(session, self._name)

    def _live(self) -> None:
        for pause in AGAIN.pauses():
            if (machine := self._look()) is not None:
                self._stay(machine)
                return
            self._known.set()
            if self._done.wait(pause):
                return

    def _look(self) -> Machine | None:
        try:
            if not self._gate.is_open and self._gate.look_when_free().health is not Health.ready:
                return None
            with self._gate.occupied():
                resolved = self._settings.model_copy(update={"device": self._gate.name})
                return machine_of(resolved, self._check, self._gate.uuid)
        except Interrupted:
            return None
        except Exception as error:
            log.error("this machine cannot be measured, so that plans know nothing of it: %s", error)
            return None

    def _check(self) -> None:
        if self._done.is_set():
            raise Interrupted

    def _stay(self, machine: Machine) -> None:
        there = False
        while not self._done.is_set():
            try:
                with transaction() as session:
                    there = there and registry.beat(session, self._name)
                    if not there:
                        registry.register(session, self._name, machine)
                        ring_for(session, self._name, harness=has_harness())
                        there = True
            except Exception as error:
                log.warning("the database did not take that this worker is there (%s)", type(error).__name__)
            self._known.set()
            self._done.wait(self._settings.heartbeat_seconds)
