"""What an engine says of its own end: whose fault it was, and what of the machine was missing."""

import errno
import hashlib
import json
import os
import re
import traceback
from collections.abc import Callable
from functools import partial
from typing import Final

import torch

from secateur.spec.records.pipe import DeviceMemory, Failed
from secateur.spec.request import single_devices
from worker.machine_errors import Trouble, trouble_of
from worker.pruning import IllConditioned, UserError

LITTLE_BYTES: Final = 2**30
"""A library that cannot set itself up while less than this of the GPU is free lacks memory."""

NO_FIT: Final = (
    "The job does not fit into the GPU's memory{}. Use windows of fewer tokens (`sequence_length` of "
    "`calibration` and `evaluation`), or a worker with a larger GPU."
)
NO_DEVICE: Final = "The worker's GPU could not be used, or no longer. Its operator finds the reason in its log."
NO_LOCKED: Final = (
    "The machine gave no more page-locked memory for the GPU's transfers. Its operator may raise what the worker "
    "may hold, or lower `hidden_bytes`."
)
OWN_ERROR: Final = "The engine stopped with an error of its own. Its operator finds it in the worker's log."


def describe(error: BaseException, request: bytes = b"") -> Failed:
    """A failure for its owner; `detail` is for the operator's log only. request: as it came, whatever it was."""
    detail = "".join(traceback.format_exception(error))
    if isinstance(error, UserError):
        told = detail if error.__cause__ is not None else None
        return Failed(code=error.code, cause="user", message=error.message, field=error.field, detail=told)
    if isinstance(error, IllConditioned):
        # The same job would end the same way: only other settings, another text or another model can help.
        return Failed(code="ill_conditioned", cause="user", message=str(error))
    system = partial(Failed, cause="system", detail=detail)
    if (trouble := trouble_of(error)) is not None:
        memory = _device_memory(request)
        found = _of_the_machine(trouble, memory)
        return found.model_copy(update={"memory": memory, "detail": detail, "fingerprint": _known(trouble, error)})
    if os.strerror(errno.ENOSPC) in str(error):  # safetensors has an exception of its own for it
        return system(code="disk_full", message="The worker's disk is full.")
    return system(code="engine_failed", message=OWN_ERROR, fingerprint=_fingerprint(error))


def _of_the_machine(trouble: Trouble, memory: DeviceMemory | None) -> Failed:
    """memory: of the GPU, where it has answered."""
    little = memory is not None and memory.free_bytes < max(LITTLE_BYTES, memory.total_bytes // 50)
    match trouble:
        case Trouble.host_memory:
            return _system("out_of_memory", "The engine ran out of memory.")
        case Trouble.device_memory:
            return _system("out_of_memory", _no_fit(memory))
        # Without a word of the GPU it is the very first that the runtime was asked for: no job's size explains it.
        case Trouble.runtime_memory if memory is not None:
            return _system("out_of_memory", _no_fit(memory) if little else NO_LOCKED)
        case Trouble.starved if little:
            return _system("out_of_memory", _no_fit(memory))
    return _system("device_unavailable", NO_DEVICE)


def _system(code: str, message: str) -> Failed:
    return Failed(code=code, cause="system", message=message)


def _no_fit(memory: DeviceMemory | None) -> str:
    if memory is None:
        return NO_FIT.format("")
    sizes = (memory.total_bytes, memory.reserved_bytes, memory.free_bytes)
    total, reserved, free = (f"{size / 1e9:.1f} GB" for size in sizes)
    return NO_FIT.format(f": of {total} the engine had reserved {reserved}, and {free} were free")


def _known(trouble: Trouble, error: BaseException) -> str | None:
    """The error's fingerprint where it may be a program's mistake: then it comes again on a sound GPU, too."""
    return _fingerprint(error) if trouble in (Trouble.fault, Trouble.starved) else None


def _device_memory(request: bytes) -> DeviceMemory | None:
    """Of the GPU that the request names; None without one, and where it does not answer."""
    try:
        is_initialized: Callable[[], bool] = torch.cuda.is_initialized
        device = str(json.loads(request)["device"])
        if not device.startswith("cuda") or not is_initialized():
            return None
        # Of several, the one that is fullest: they are alike.
        device = min(single_devices(device), key=lambda each: torch.cuda.mem_get_info(each)[0])
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(
            total_bytes=total,
            free_bytes=free,
            reserved_bytes=torch.cuda.memory_reserved(device),
            allocated_bytes=torch.cuda.memory_allocated(device),
        )
    except Exception:  # nothing that a sick driver may say hides the failure that is to be told
        return None


def _fingerprint(error: BaseException) -> str:
    """The same for the same error at the same place, in whatever process: its type, its words without numbers, and
    the lines that led to it."""
    lines = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    said = re.sub(r"0x[0-9a-f]+|\d+", "#", str(error))
    text = "\n".join([type(error).__qualname__, said, *lines])
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
