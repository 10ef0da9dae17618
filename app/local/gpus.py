"""The GPUs of this machine that a local stack may use, by UUID: each has a worker of its own."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

SECONDS: Final = 20.0
"""A driver that does not answer within this time is not used."""
SPREAD: Final = frozenset({"", "auto", "cuda"})
"""Values of SECATEUR_DEVICE with which every GPU gets a worker; any other one names the device of the one worker,
or several for it (`cuda:0,1`)."""


def worker_environments(environment: Mapping[str, str]) -> list[dict[str, str]]:
    """What each worker of jobs has in its environment, one worker a GPU; one that has nothing where there is none.

    environment: the stack's. Several share the machine: each has its part of the processors and of the memory.
    """
    if environment.get("SECATEUR_DEVICE", "") not in SPREAD:
        return [{}]
    uuids = visible(_uuids(), environment.get("CUDA_VISIBLE_DEVICES"))
    if len(uuids) < 2:
        return [{}]
    shared = {
        "SECATEUR_DEVICE": "cuda",
        "SECATEUR_THREADS": str(max(1, (os.cpu_count() or 1) // len(uuids))),
        "SECATEUR_ENGINE_MEMORY_BYTES": str(_memory_bytes() * 9 // 10 // len(uuids)),
    }
    ours = {name: value for name, value in shared.items() if name == "SECATEUR_DEVICE" or name not in environment}
    return [ours | {"CUDA_VISIBLE_DEVICES": uuid} for uuid in uuids]


def visible(uuids: list[str], chosen: str | None) -> list[str]:
    """Of all GPUs' UUIDs, in the order of their numbers, those that CUDA_VISIBLE_DEVICES leaves. As CUDA reads it:
    numbers or the beginnings of UUIDs, up to the first that names no GPU."""
    if chosen is None:
        return uuids
    found: list[str] = []
    for name in map(str.strip, chosen.split(",")):
        if name.isdecimal():
            named = uuids[int(name) : int(name) + 1]
        else:
            named = [uuid for uuid in uuids if name and uuid.startswith(name)]
        if len(named) != 1 or named[0] in found:
            break
        found += named
    return found


def _uuids() -> list[str]:
    """As the driver's own tool lists them; none where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in said.stdout.splitlines() if line.strip().startswith("GPU-")]


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
