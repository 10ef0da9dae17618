"""Machines as workers describe them."""

from typing import Any, Final

from secateur.spec.records.machine import Machine

GIB: Final = 2**30
RATES: Final[dict[str, Any]] = {
    "float32": 1e11,
    "rounded": 1e11,
    "bfloat16": 1e11,
    "memory": 1e10,
    "disk_read": 1e9,
    "disk_write": 1e9,
}
GPU_RATES: Final[dict[str, Any]] = RATES | {
    "float32": 5e13,
    "rounded": 3e14,
    "bfloat16": 6e14,
    "memory": 3e12,
    "upload": 5e10,
    "download": 5e10,
}


def cpu(gib: float = 8, **changes: Any) -> Machine:
    """Without a GPU, its engines with so much memory."""
    known = {"device": "cpu", "name": "processor", "threads": 2, "host_bytes": round(gib * GIB)}
    return Machine(**{**known, "disk_bytes": 100 * GIB, "start_seconds": 3.0, "rates": RATES, **changes})


def gpu(gib: float = 80, host_gib: float = 200, **changes: Any) -> Machine:
    """With a GPU of so much memory."""
    known = {"device": "cuda", "name": "NVIDIA pretend", "device_bytes": round(gib * GIB), "rates": GPU_RATES}
    return cpu(host_gib, **{**known, **changes})
