"""What a machine has and how fast it is, measured in about a second.

Each rate is that of the best of several short runs. What else runs at the moment counts for little: at a worker's
start much does.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import torch

from secateur.spec.records.machine import Machine, Rates
from worker.harness import harness_version
from worker.isolation.limits import host_memory_bytes
from worker.pruning.runtime.fingerprint import fingerprint
from worker.pruning.runtime.numerics import pick_devices, products, threads_of

SIDES: Final = {"cpu": 768, "cuda": 8192}
"""Of a matrix that is multiplied: as fast as larger ones are, and no slower than need be."""
COPIED_BYTES: Final = {"cpu": 64 * 2**20, "cuda": 2**28}
"""More than a processor's caches hold."""
DISK_BYTES: Final = 32 * 2**20
FEWEST: Final = 3
MOST: Final = 40
"""Runs of one measurement. The first ones may set things up."""
PATIENCE_SECONDS: Final = 0.1
"""Of one measurement, once it has had the fewest runs; what would take longer is not tried with more."""
CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time, or `max`, in so many."""
LOST: Final = 2.0
"""Of a processor's threads, so many times what each would take by itself; what is more is other work's."""
LEAST_SECONDS: Final = 1e-6
"""Shorter ones are the clock's."""


def measure(
    device_name: str, folder: Path, threads: int, host_bytes: int | None = None, *, quick: bool = False
) -> Machine:
    """The machine at hand. Raises SpecError for a GPU that is not there, OSError for a folder that takes no file.

    device_name: as in a request. folder: whose disk is measured. host_bytes: that an engine may hold; without it
    what the machine has. quick: in a fifth of the time, and not so well.
    """
    devices = pick_devices(device_name)
    device = devices[0]
    torch.empty(1, device=device).sum().item()  # from here on the device is ready
    started = time.process_time()
    found = fingerprint(device, len(devices))
    with threads_of(threads):
        rates = _rates(device, folder, 0.2 if quick else 1.0)
    return Machine(
        device="cuda" if device.type == "cuda" else "cpu",
        name=found.name[:200],
        device_bytes=found.memory_bytes or 0,
        gpus=len(devices),
        host_bytes=host_bytes or host_memory_bytes(),
        disk_bytes=shutil.disk_usage(folder).free,
        threads=threads,
        start_seconds=started,
        rates=rates,
        fingerprint=found,
        harness=harness_version(),
    )


def _rates(device: torch.device, folder: Path, care: float) -> Rates:
    """care: part of the time, and of the disk's bytes, that is taken."""
    patience = care * PATIENCE_SECONDS
    read, write = _disk(folder, int(care * DISK_BYTES))
    upload, download = _bus(device, patience) if device.type == "cuda" else (None, None)
    return Rates(
        float32=_products(device, torch.float32, "highest", patience),
        rounded=_products(device, torch.float32, "medium", patience),
        bfloat16=_products(device, torch.bfloat16, "highest", patience),
        memory=_memory(device, patience),
        upload=upload,
        download=download,
        disk_read=read,
        disk_write=write,
    )


def _products(device: torch.device, dtype: torch.dtype, precision: str, patience: float) -> float:
    """Operations a second. precision: torch's, of float32 products."""
    rate = 0.0
    for side in (SIDES[device.type] // 4, SIDES[device.type]):
        work = 2.0 * side**3
        if rate and work / rate > patience:
            break
        one = torch.ones((side, side), device=device, dtype=dtype)
        with products(precision):
            rate = work / _best(device, partial(torch.matmul, one, one), patience)
    return rate


def _memory(device: torch.device, patience: float) -> float:
    one = torch.ones(COPIED_BYTES[device.type] // 4, device=device)
    other = torch.empty_like(one)
    return 2.0 * one.nbytes / _best(device, lambda: other.copy_(one), patience)


def _bus(device: torch.device, patience: float) -> tuple[float, float]:
    """To the device and back, from memory that it reads by itself."""
    there = torch.ones(COPIED_BYTES["cuda"] // 4, device=device)
    here = torch.empty(there.shape, pin_memory=True)
    up = _best(device, lambda: there.copy_(here, non_blocking=True), patience)
    down = _best(device, lambda: here.copy_(there, non_blocking=True), patience)
    return there.nbytes / up, there.nbytes / down


def _disk(folder: Path, size: int) -> tuple[float, float]:
    """Read and written, once each: a file of our own, which the kernel is asked to drop in between."""
    data = os.urandom(2**20)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        began = time.perf_counter()
        for _ in range(size // len(data)):
            file.write(data)
        os.fsync(file.fileno())
        written = time.perf_counter() - began
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        began = time.perf_counter()
        while file.read(len(data)):
            pass
        read = time.perf_counter() - began
    size = size // len(data) * len(data)
    return size / max(read, LEAST_SECONDS), size / max(written, LEAST_SECONDS)


def _best(device: torch.device, act: Callable[[], object], patience: float) -> float:
    """Seconds of the quickest run.

    A processor's single thread is timed by what it takes of it. Several threads cannot be: they wait for each
    other by turning on the spot, beside other work for many times what they do. By the clock they tell how much
    quicker they are than one, which is believed within `LOST`.
    """
    if device.type == "cuda":

        def finish() -> None:
            act()
            torch.cuda.synchronize(device)

        return _quickest(finish, time.perf_counter, patience)
    threads = torch.get_num_threads()
    together = _quickest(act, time.perf_counter, patience) if threads > 1 else 0.0
    with threads_of(1):
        shared = _quickest(act, time.process_time, patience) / min(threads, processors())
    return min(max(together, shared), LOST * shared)


def _quickest(act: Callable[[], object], clock: Callable[[], float], patience: float) -> float:
    times: list[float] = []
    while len(times) < FEWEST or (len(times) < MOST and sum(times) < patience):
        began = clock()
        act()
        times.append(clock() - began)
    return max(min(times), LEAST_SECONDS)


def processors() -> float:
    """That this process may use at once: by its affinity, and by what its control group has of the time."""
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with suppress(OSError, ValueError):
        quota, period = CPU_QUOTA.read_text().split()
        count = min(count, float(quota) / float(period))
    return max(count, 0.01)
