"""A look at the worker's device, from a process that does not touch it itself."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from secateur.spec.request import single_devices
from worker.device.finding import Finding, Health
from worker.isolation import LimitReached, Limits, run_isolated
from worker.isolation.child import lingering

PROBE: Final = "worker.device.probe"
LOOK_SECONDS: Final = 30.0
"""The start of a driver takes seconds where nothing keeps it awake."""


def look(
    device: str, foreign_bytes: int, work_dir: Path, module: str = PROBE, seconds: float = LOOK_SECONDS
) -> Finding:
    """Ask the module, in a child process, for a Finding; whatever becomes of that child is one, too.

    device: auto, cuda or cuda:N. foreign_bytes: of its memory, what others may hold.
    """
    if stuck := lingering():
        # Another child would only get stuck beside it.
        numbers = ", ".join(map(str, stuck))
        return Finding(Health.sick, f"its driver holds process {numbers}, which cannot be ended: restart the host")
    try:
        return Finding.of(_ask(device, foreign_bytes, work_dir, module, seconds))
    except LimitReached:
        return Finding(Health.sick, f"its driver has not answered for {seconds:g} s")
    except (RuntimeError, LookupError, TypeError, ValueError):
        return Finding(Health.sick, "the process that looked at it has died; the log has its last words")
    except OSError as error:
        return Finding(Health.sick, f"it could not be looked at: {error.strerror}")


def look_at_all(
    device: str, foreign_bytes: int, work_dir: Path, module: str = PROBE, seconds: float = LOOK_SECONDS
) -> Finding:
    """The same of several (`cuda:0,1`), one after another: of the first that is not ready, which it names, or of
    all of them."""
    several = single_devices(device)
    found = []
    for each in several:
        own = look(each, foreign_bytes, work_dir, module, seconds)
        if len(several) > 1:
            own = replace(own, device=each, said=own.said and f"{each}: {own.said}")
        if own.health is not Health.ready:
            return own if len(several) == 1 else replace(own, uuid=None)
        found.append(own)
    if len(found) == 1:
        return found[0]
    return replace(found[0], uuid=",".join(each.uuid or "" for each in found), device=None)


def _ask(device: str, foreign_bytes: int, work_dir: Path, module: str, seconds: float) -> dict[str, Any]:
    request = {"device": device, "foreign_bytes": foreign_bytes}
    limits = Limits(silent_seconds=seconds)
    work_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="look-", dir=work_dir, ignore_cleanup_errors=True) as folder:
        return run_isolated(module, request, what="the GPU", workspace=Path(folder), limits=limits)
