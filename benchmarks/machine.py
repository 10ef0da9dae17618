"""What a measured time depends on besides the code."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from worker.pruning.evaluation.losses import native_dtype
from worker.pruning.runtime.fingerprint import processor_model

TELLING = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")
"""CPU flags that decide which kernels run."""


def machine() -> dict[str, Any]:
    """Processor, memory, versions; nothing that changes from one run to the next."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    cpu = {key.strip(): value.strip() for key, _, value in lines}
    flags = set(cpu.get("flags", "").split())
    return {
        "cpu": processor_model(),
        "flags": [flag for flag in TELLING if flag in flags],
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "native_dtype": native_dtype(torch.device("cpu")),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy", "safetensors")},
    }
