"""Errors that are the machine's, not the input's: its memory and its GPU, by whatever library says so.

Read from the sources of torch 2.13 (c10/cuda, ATen/cuda, aten/native/cuda). Torch's own allocator has an exception
of its own, and so have errors of the CUDA runtime, which carry its number; every other library of NVIDIA's says it
in words: cuBLAS, cuSOLVER, cuSPARSE, cuDNN, cuFFT, cuDSS, MAGMA, Triton, the driver. No torch is imported here.
"""

import errno
import re
from collections.abc import Iterator
from enum import Enum
from typing import Final


class Trouble(Enum):
    """What the machine lacks."""

    host_memory = "the machine's memory"
    device_memory = "the GPU's memory, by the allocator or by a library that was at work on it"
    runtime_memory = "memory, by the CUDA runtime: of the GPU, or of the host for its transfers"
    starved = "a library could not set itself up on the GPU: nearly always for want of memory"
    fault = "the GPU has refused to go on: it is sick, or a program has made a mistake"
    device = "the GPU or its driver cannot be used"


OUT_OF_MEMORY: Final = frozenset({Trouble.host_memory, Trouble.device_memory, Trouble.runtime_memory})

_BY_CODE: Final[dict[int, Trouble]] = {
    2: Trouble.runtime_memory,
    # No start, no driver or an unfit one, busy, none there, no code for it.
    **dict.fromkeys((3, 4, 34, 35, 36, 46, 100, 101, 102, 103, 127, 209, 222, 223), Trouble.device),
    # Its memory, its links or its tensor memory in error; timed out; the context gone; unknown.
    **dict.fromkeys((214, 220, 225, 226, 702, 709, 721, 999), Trouble.device),
    # The fabric, the driver's halves, or the MPS server.
    **dict.fromkeys(range(802, 811), Trouble.device),
    # Illegal addresses and instructions, assertions, failed launches.
    **dict.fromkeys((700, 710, 714, 715, 716, 717, 718, 719), Trouble.fault),
}
"""By number of `cudaError_t`; one that is not here says nothing of the device."""

_LIBRARY: Final = r"(?:cublas|cusolver|cusparse|cudnn|cufft|cudss|curand|nccl)"
_SAID: Final = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), trouble)
    for pattern, trouble in (
        (r"nvml\w* *== *r\b|nvml_success|initialize nvml|nvml.{0,40}(?:lost|mismatch|fail)", Trouble.device),
        (r"\bcuda out of memory|\btriton\b.*out of memory", Trouble.device_memory),
        (r"\b(?:cuda|hip|nvidia|nccl)\b.*out of memory", Trouble.runtime_memory),
        (r"would exceed allowed memory", Trouble.device_memory),
        (rf"{_LIBRARY}_\w*alloc(?:ation)?_failed", Trouble.device_memory),
        (r"cuda error: (?:insufficient resources|resource allocation failed)", Trouble.device_memory),
        (r"magma.*alloc|cannot allocate memory on gpu|malloc.*on gpu|cudamalloc", Trouble.device_memory),
        (r"allocate memory|bad_alloc|not enough memory|unable to allocate", Trouble.host_memory),
        (rf"{_LIBRARY}_status_(?:not_initialized|internal_error)", Trouble.starved),
        (
            r"device-side assert triggered|unspecified launch failure|illegal (?:memory access|instruction)"
            r"|misaligned address|hardware stack error|invalid program counter|on global/shared address space"
            rf"|{_LIBRARY}_status_(?:execution_failed|mapping_error)",
            Trouble.fault,
        ),
        (
            r"\b(?:ecc|nvlink) error|uncorrectable|fallen off the bus|gpu is lost|driver/library version mismatch"
            r"|no nvidia driver|nvidia driver on your system|cuda driver initialization failed|cuda unknown error"
            r"|no cuda gpus are available|error from cudagetdevicecount|not compiled with cuda"
            r"|cuda-capable device|cuda driver version is insufficient|cuda driver is a stub"
            r"|invalid device ordinal|no kernel image is available|launch timed out|context is destroyed"
            r"|forward compatibility|unsupported (?:display driver|ptx)|system not yet initialized"
            r"|\bmps (?:client|server|control)"
            r"|cuda (?:driver )?error: (?:initialization error|unknown error|driver shutting down)",
            Trouble.device,
        ),
    )
)


def trouble_of(error: BaseException) -> Trouble | None:
    """What the machine lacks, by the error or one that led to it; None where nothing says so."""
    return next((found for each in _chain(error) if (found := _trouble(each)) is not None), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Of the machine or of its GPU."""
    return trouble_of(error) in OUT_OF_MEMORY


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _trouble(error: BaseException) -> Trouble | None:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return Trouble.host_memory
    # Anything else than these may quote what a user wrote.
    if not isinstance(error, RuntimeError | AssertionError):
        return None
    if type(error).__name__ == "OutOfMemoryError":
        return Trouble.device_memory
    code = getattr(error, "error_code", None)
    if isinstance(code, int):
        return _BY_CODE.get(code)
    return next((trouble for pattern, trouble in _SAID if pattern.search(str(error))), None)
