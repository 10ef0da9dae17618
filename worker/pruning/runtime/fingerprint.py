"""Which device computes, with what: the one description that reports, greetings and attempts have."""

import platform
import re
from contextlib import suppress
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any, Final

import torch

from secateur.spec.job import Numerics
from secateur.spec.records.device import Fingerprint
from worker.pruning.runtime.numerics import flags, search_precision

LIBRARIES: Final = ("torch", "transformers", "safetensors", "tokenizers", "numpy")
"""Those that compute or write."""
PROCESSORS: Final = Path("/proc/cpuinfo")
INTEL: Final = "GenuineIntel"
DRIVER: Final = Path("/proc/driver/nvidia/version")


def fingerprint(device: torch.device, gpus: int = 1) -> Fingerprint:
    """Of `device`, as torch finds it now. Starts CUDA for a GPU. gpus: like it, that compute together."""
    if device.type != "cuda":
        return Fingerprint(
            type=device.type,
            name=processor_model(),
            capability=torch.backends.cpu.get_cpu_capability(),
            threads=torch.get_num_threads(),
            libraries=versions(),
            precision=flags(device),
        )
    found: Any = torch.cuda.get_device_properties(device)
    cudnn: Any = torch.backends.cudnn
    return Fingerprint(
        type=device.type,
        name=found.name,
        capability=f"{found.major}.{found.minor}",
        threads=torch.get_num_threads(),
        libraries=versions() | _gpu_libraries(),
        precision=flags(device),
        memory_bytes=found.total_memory,
        uuid=str(found.uuid),
        gpus=gpus if gpus > 1 else None,
        driver=_driver(),
        cuda=torch.version.cuda,
        cudnn=str(cudnn.version()) if cudnn.is_available() else None,
    )


def pinned(
    threads: int, batch_tokens: int, device: torch.device, dtype: str, numerics: Numerics
) -> dict[str, Any]:
    """What two runs of one job must have in common to give the same bytes; not which of equal GPUs it was. dtype:
    of forward passes."""
    return {
        "threads": threads,
        "batch_tokens": batch_tokens,
        "device": fingerprint(device).model_dump(mode="json", exclude={"uuid", "threads"}, exclude_none=True),
        "dtype": {"forward": dtype, "statistics": "float32", "search": search_precision(device, numerics)},
        "numerics": numerics,
    }


def processor_model() -> str:
    """What libraries of linear algebra choose their code by, beside the instructions that a processor has."""
    return _said("model name") or platform.processor() or platform.machine()


def processor_vendor() -> str:
    """Such as `INTEL`; empty where the system does not say."""
    return _said("vendor_id")


def _said(field: str) -> str:
    """What Linux says of the first processor."""
    with suppress(OSError):
        for line in PROCESSORS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""


def versions() -> dict[str, str]:
    """Of Python and of every library that computes or writes."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def _gpu_libraries() -> dict[str, str]:
    """cuBLAS, cuDNN and the others, which are packages of their own."""
    named = ((str(found.metadata["Name"]), found.version) for found in distributions())
    return {name: number for name, number in sorted(named) if name == "triton" or name.startswith("nvidia-")}


def _driver() -> str | None:
    """The kernel module's version: `NVRM version: NVIDIA UNIX … Kernel Module  580.65.06  …`."""
    with suppress(OSError):
        said = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", DRIVER.read_text())
        return said and said[0]
    return None
