"""The worker's device between its jobs: resolved once, held by a lock, looked at before each claim.

A worker whose GPU does not work, or is not its alone, claims nothing: an attempt would fail there. What an attempt
has failed by is settled by another look: a job must not pay for a GPU.
"""

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Final

from app.delivery.endings import Failure
from app.settings import Settings, get_settings
from app.tables.states import OF_THE_DEVICE, Reason
from secateur.backoff import Backoff
from secateur.spec.records.pipe import DeviceMemory
from worker.attempt.patience import Patience
from worker.device.build import torch_cuda
from worker.device.finding import Finding, Health
from worker.device.lock import DeviceLock, DeviceTaken
from worker.device.look import PROBE, look_at_all

log = logging.getLogger(__name__)

PAUSE: Final = Backoff(2.0, longest=300.0)
"""Between two looks at a device that is not ready."""
CPU: Final = "cpu"
OWN_BYTES: Final = 3 * 2**29
"""Of a GPU, what an engine takes beside its allocator at the most: its context, and what libraries keep."""
DOUBTFUL: Final = OF_THE_DEVICE | {
    Reason.engine_failed,
    Reason.engine_killed,
    Reason.engine_stalled,
    Reason.out_of_memory,
}
"""Ends of an attempt that a GPU may have brought about."""


def others_bytes(memory: DeviceMemory) -> int:
    """What is neither free nor the engine's."""
    return max(0, memory.total_bytes - memory.free_bytes - memory.reserved_bytes - OWN_BYTES)


@cache
def process_gate() -> "DeviceGate":
    """The process's own, and after a fork its children's."""
    return DeviceGate(get_settings())


class DeviceGate:
    """One worker's. It outlives the calls of `run_jobs`; what its process forks shares its lock."""

    def __init__(self, settings: Settings, probe: str = PROBE) -> None:
        """probe: the module that looks."""
        self._wanted = settings.device
        self._folder: Path = settings.gpu_lock_dir
        self._probe = partial(
            look_at_all, foreign_bytes=settings.device_foreign_bytes, work_dir=settings.work_dir, module=probe
        )
        self._name: str | None = CPU if settings.device == CPU else None
        self._uuid: str | None = None
        self._locks: list[DeviceLock] = []
        self._turn = threading.RLock()
        self.last = Finding(Health.ready)
        """What was found last."""

    @property
    def name(self) -> str:
        """What engines compute on: `cpu`, `cuda:N` or `cuda:N,M`. Known once the gate was open."""
        if self._name is None:
            raise RuntimeError("the device is not resolved yet")
        return self._name

    @property
    def is_open(self) -> bool:
        """Whether the device is known."""
        return self._name is not None

    @property
    def wanted(self) -> str:
        """What engines compute on, or while that is not known what was asked for."""
        return self._name or self._wanted

    @property
    def uuid(self) -> str | None:
        """Of the GPU; of several, with commas between."""
        return self._uuid

    def look(self) -> Finding:
        """How the device is now; the first that is ready is the worker's from then on. Raises DeviceTaken."""
        with self._turn:
            self.last = self._find()
            return self.last

    def _find(self) -> Finding:
        if self._name is None and self._wanted == "auto" and torch_cuda() is None:
            self._use_processor("the installed torch is built without CUDA")
        if self._name == CPU:
            return Finding(Health.ready)
        finding = self._probe(self.wanted)
        if self._name is None:
            finding = self._resolve(finding)
        elif finding.uuid is not None and finding.uuid != self._uuid:
            said = f"{self._name} is another GPU now ({finding.uuid}): the worker's ({self._uuid}) is gone"
            finding = Finding(Health.sick, said)
        if finding.health is Health.absent:
            return replace(finding, health=Health.sick)
        return finding

    def wait(self, stopping: threading.Event, seconds: float = math.inf) -> None:
        """Return once the device is ready, or the worker must stop. Raises OutOfPatience after so many seconds."""
        failures, before, patience = 0, "", Patience(seconds)
        while not stopping.is_set():
            finding = self._look_or_taken()
            if finding.health is Health.ready:
                if failures:
                    log.warning("the device %s works again", self.name)
                return
            failures += 1
            pause = patience.next(PAUSE.after(failures), f"{self.wanted}: {finding.said}")
            if finding.said != before:
                log.error(
                    "%s: %s: nothing is claimed until it is ready; the next look in %g s",
                    self.wanted,
                    finding.said,
                    pause,
                )
            before = finding.said
            stopping.wait(pause)

    def settle(self, failure: Failure) -> Failure:
        """The same failure, or the device's, if that is what was wrong."""
        if self.name == CPU or failure.reason not in DOUBTFUL:
            return failure
        finding = self._look_or_taken()
        if finding.health is Health.ready:
            if failure.reason is Reason.device_unavailable and failure.fingerprint is not None:
                # A program's mistake looks like a GPU's, and this GPU works.
                return replace(failure, reason=Reason.engine_failed, message="")
            return failure
        log.error("%s: %s", self.name, finding.said)
        shared = finding.health is Health.shared
        reason = Reason.device_shared if shared else Reason.device_unavailable
        figures = {name: getattr(finding, name) for name in ("total_bytes", "others_bytes", "device")}
        details = {**(failure.details or {}), **{name: size for name, size in figures.items() if size is not None}}
        return Failure(reason, details=details or None)

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """While an engine of ours is on the device: others than who runs it do not look, for they would see it."""
        with self._turn:
            yield

    def look_when_free(self) -> Finding:
        """The same as `look`, or what was found last while an engine of ours is on the device. Never raises."""
        if not self._turn.acquire(blocking=False):
            return self.last
        try:
            return self._look_or_taken()
        finally:
            self._turn.release()

    def _look_or_taken(self) -> Finding:
        try:
            return self.look()
        except DeviceTaken as error:
            self.last = Finding(Health.shared, str(error))
            return self.last

    def _resolve(self, finding: Finding) -> Finding:
        if self._wanted == "auto" and finding.health is Health.absent:
            self._use_processor(finding.said)
            return Finding(Health.ready)
        if finding.uuid is None or finding.health is Health.sick:
            return finding
        try:
            self._locks = _locked(self._folder, finding.uuid.split(","))
        except OSError as error:
            said = f"it cannot be locked in {self._folder} (SECATEUR_GPU_LOCK_DIR): {error.strerror}"
            return replace(finding, health=Health.sick, said=said)
        number = self._wanted.partition(":")[2] or "0"  # of several, all
        self._name, self._uuid = f"cuda:{number}", finding.uuid
        log.info("device %s: %s (%s)", self._name, finding.name, finding.uuid)
        return finding

    def _use_processor(self, said: str) -> None:
        log.warning("device auto: %s: jobs are run on the processor", said)
        self._name = CPU


def _locked(folder: Path, uuids: list[str]) -> list[DeviceLock]:
    """All of them or none. Raises DeviceTaken."""
    locks: list[DeviceLock] = []
    try:
        for uuid in uuids:
            locks.append(DeviceLock(folder, uuid))
    except BaseException:
        for lock in locks:
            lock.close()
        raise
    return locks
