"""The look at a GPU: the child of `worker.device.look`, isolated as an engine is.

It starts the driver, makes a context, writes and reads a little. That it does not come back in time is for its
parent to see: a sick driver can hold a process for good.
"""

import ctypes
import os
from collections.abc import Callable
from glob import glob
from typing import Any, Final

from worker.device.build import torch_cuda
from worker.device.finding import Finding, Health
from worker.device.nvidia import (
    CUDA_LIBRARY,
    CUDA_NO_DEVICE,
    CUDA_NO_MEMORY,
    NVML_LIBRARY,
    Cuda,
    DriverError,
    Nvml,
)

NODES: Final = ("/dev/nvidia[0-9]*", "/proc/driver/nvidia/gpus/*", "/dev/dxg", "/dev/nvhost-gpu")
HIDDEN: Final = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES by which an operator hides every GPU."""
TRIED_BYTES: Final = 2**20
CONTEXT_BYTES: Final = 2**30
"""Of the GPU, what our own context may take at the most."""


def answer(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """A `Finding`, as JSON. request: `device` (auto, cuda, cuda:N), `foreign_bytes` that others may hold."""
    built = torch_cuda()
    if built is None:
        said = "the installed torch is built without CUDA"
        found = Finding(Health.absent if request["device"] == "auto" else Health.sick, said)
    else:
        found = examine(_library(CUDA_LIBRARY), _library(NVML_LIBRARY), request, built)
    return found.as_json()


def examine(cuda: Any | None, nvml: Any | None, request: dict[str, Any], built: str) -> Finding:
    """cuda, nvml: the libraries, None where there is none. built: the version of CUDA that torch is built with."""
    if cuda is None:
        return _none_there("there is no NVIDIA driver here (libcuda.so.1)")
    try:
        driver = Cuda(cuda)
        count, serves = driver.count(), driver.version() // 1000
    except DriverError as error:
        return _none_there(str(error)) if error.code == CUDA_NO_DEVICE else Finding(Health.sick, str(error))
    ordinal = int(request["device"].partition(":")[2] or 0)
    if serves < int(built.partition(".")[0]):
        said = f"its driver serves CUDA {serves}, and torch is built with {built}: install a newer driver"
        return Finding(Health.sick, said)
    if count == 0:
        return _none_there("the driver finds no GPU")
    if ordinal >= count:
        return Finding(Health.sick, f"the driver finds {count} GPUs here, and none has the number {ordinal}")
    try:
        device = driver.device(ordinal)
        known = Finding(Health.ready, uuid=driver.uuid(device), name=driver.name(device))
    except DriverError as error:
        return Finding(Health.sick, str(error))
    return _judged(known, driver, device, nvml, request["foreign_bytes"])


def _judged(known: Finding, driver: Cuda, device: ctypes.c_int, nvml: Any | None, foreign: int) -> Finding:
    facts: dict[str, Any] = {"uuid": known.uuid, "name": known.name}
    holders = ""
    try:
        if nvml is not None:
            monitor = Nvml(nvml, known.uuid or "")
            free, total = monitor.memory()
            facts |= {"total_bytes": total, "others_bytes": total - free}
            holders = ", ".join(f"process {each.pid}" for each in monitor.processes())
            if monitor.remapping_failed():
                return Finding(Health.sick, "rows of its memory are broken for good: replace it", **facts)
        with driver.context(device):
            free, total = driver.memory()
            facts = {"total_bytes": total, "others_bytes": max(0, total - free - CONTEXT_BYTES)} | facts
            sound = facts["others_bytes"] > foreign or driver.write_and_read(TRIED_BYTES)
    except DriverError as error:
        taken = facts.get("others_bytes", foreign + 1)
        if error.code != CUDA_NO_MEMORY or taken <= foreign:
            return Finding(Health.sick, str(error), **facts)
        facts["others_bytes"], sound = taken, True
    if facts["others_bytes"] > foreign:
        who = f" ({holders})" if holders else ""
        said = f"others hold {facts['others_bytes'] / 1e9:.1f} GB of its memory{who}"
        return Finding(Health.shared, said, **facts)
    if not sound:
        return Finding(Health.sick, "it does not give back what it was told to write", **facts)
    return Finding(Health.ready, **facts)


def _none_there(said: str) -> Finding:
    """Where the system shows a GPU, the driver that finds none is at fault, unless it was told to."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in HIDDEN
    shown = any(glob(each) for each in NODES)
    return Finding(Health.sick if shown and not hidden else Health.absent, said)


def _library(name: str) -> Any | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None
