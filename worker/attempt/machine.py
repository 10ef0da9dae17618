"""What a worker's machine has and can do: measured by an engine, and kept until the machine starts again."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from app.settings import Settings
from secateur.spec.records.machine import Machine
from secateur.spec.records.pipe import Measured
from worker.attempt.engine_process import engine_limits
from worker.attempt.engine_question import ask_engine
from worker.harness import harness_version
from worker.isolation.limits import Limits

SILENT_SECONDS: Final = 120.0
"""A measurement that takes longer is given up."""
BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
VISIBLE: Final = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


def machine_of(settings: Settings, check: Callable[[], None] = lambda: None, uuid: str | None = None) -> Machine:
    """What this worker has. uuid: of its GPU. check: called often; raises when the work must stop.

    Raises RuntimeError or IntakeError when an engine cannot measure it, OSError for a folder that takes no file.
    """
    kept = kept_at(settings, uuid)
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    machine = _kept(kept)
    if machine is None:
        machine = _measured(settings, check)
        _keep(kept, machine)
    # What may change without a new measurement. Not what is free now: other jobs' files and the cache go again.
    whole = shutil.disk_usage(settings.work_dir).total
    disk = whole - min(int(whole * settings.disk_reserve_fraction), settings.disk_reserve_bytes)
    return machine.model_copy(update={"host_bytes": engine_limits(settings).memory_bytes, "disk_bytes": disk})


def kept_at(settings: Settings, uuid: str | None = None) -> Path:
    """The file of a measurement, whose name says for how long it holds. uuid: of the GPU."""
    return settings.work_dir / "machines" / f"{_key(settings, uuid)}.json"


def _measured(settings: Settings, check: Callable[[], None]) -> Machine:
    with tempfile.TemporaryDirectory(dir=settings.work_dir, prefix="measure-") as folder:
        request: dict[str, Any] = {"measure": folder, "device": settings.device, "threads": settings.threads}
        limits = Limits(memory_bytes=engine_limits(settings).memory_bytes, silent_seconds=SILENT_SECONDS)
        return ask_engine(request, Path(folder), limits, check, str, Measured).machine


def _key(settings: Settings, uuid: str | None) -> str:
    """The same as long as a measurement holds: until another start of the machine, device, library or setting."""
    boot = BOOT.read_text().strip() if BOOT.exists() else ""
    visible = [os.environ.get(name) for name in VISIBLE]
    known = [
        boot,
        settings.device,
        uuid,
        settings.threads,
        version("torch"),
        harness_version(),
        visible,
        sorted(Machine.model_fields),
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def _kept(path: Path) -> Machine | None:
    with suppress(OSError, ValueError):
        return Machine.model_validate_json(path.read_bytes())
    return None


def _keep(path: Path, machine: Machine) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(machine.model_dump_json())
    beside.replace(path)
