"""What is the machine's fault, whichever library says so, and what only sounds like it."""

import errno
from typing import Any

import pytest
import torch

from worker.machine_errors import Trouble, is_out_of_memory, trouble_of

ASYNC = (
    "\nSearch for `cudaErrorX' in https://docs.nvidia.com/cuda for more information.\nCUDA kernel errors might be "
    "asynchronously reported at some other API call, so the stacktrace below might be incorrect.\nFor debugging "
    "consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side "
    "assertions.\n"
)
"""What torch puts behind an error of the runtime."""


def accelerator(code: int, text: str) -> Any:
    """As torch makes it of an error of the CUDA runtime."""
    error = torch.AcceleratorError(f"CUDA error: {text}{ASYNC}")  # type: ignore[attr-defined]
    error.error_code = code
    return error


SAID: dict[Trouble, list[BaseException]] = {
    Trouble.host_memory: [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"
        ),
        RuntimeError("std::bad_alloc"),
        RuntimeError("unable to mmap 5 bytes from file <x>: Cannot allocate memory (12)"),
    ],
    Trouble.device_memory: [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79"
        ),
        torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory. (out of memory)"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnXpotrf(h)`. If you keep"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN Frontend error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("cudss error: CUDSS_STATUS_ALLOC_FAILED, when calling `cudssCreate(&handle)`. "),
        RuntimeError("CUDA error: insufficient resources when calling `cusparseSpMM(handle)`"),
        RuntimeError("CUDA error: resource allocation failed when calling `cusparseCreate(handle)`"),
        RuntimeError("MAGMA dpotrf: cannot allocate memory on GPU device"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    Trouble.runtime_memory: [
        accelerator(2, "out of memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("NCCL error: unhandled cuda error, Cuda failure 2 'out of memory'"),
    ],
    Trouble.starved: [
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasSgemm`"),
    ],
    Trouble.fault: [
        accelerator(700, "an illegal memory access was encountered"),
        accelerator(710, "device-side assert triggered"),
        accelerator(719, "unspecified launch failure"),
        accelerator(716, "misaligned address"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    ],
    Trouble.device: [
        accelerator(214, "uncorrectable ECC error encountered"),
        accelerator(220, "uncorrectable NVLink error detected during the execution"),
        accelerator(46, "CUDA-capable device(s) is/are busy or unavailable"),
        accelerator(100, "no CUDA-capable device is detected"),
        accelerator(803, "system has unsupported display driver / cuda driver combination"),
        accelerator(802, "system not yet initialized"),
        accelerator(805, "MPS client failed to connect to the MPS control daemon or the MPS server"),
        accelerator(209, "no kernel image is available for execution on the device"),
        accelerator(999, "unknown error"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
        RuntimeError("The NVIDIA driver on your system is too old (found version 12040)."),
        RuntimeError("CUDA driver initialization failed, you might not have a CUDA gpu."),
        RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"),
        RuntimeError("No CUDA GPUs are available"),
        RuntimeError("Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before"),
        RuntimeError("Can't initialize NVML"),
        RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":1016, please report'),
        RuntimeError("Failed to initialize NVML: Driver/library version mismatch"),
        RuntimeError("Unable to determine the device handle: GPU is lost.  Reboot the system to recover this GPU"),
        AssertionError("Torch not compiled with CUDA enabled"),
    ],
}


@pytest.mark.parametrize(
    ("trouble", "error"), [(trouble, error) for trouble, errors in SAID.items() for error in errors], ids=str
)
def test_every_way_to_say_it_is_understood(trouble: Trouble, error: BaseException) -> None:
    assert trouble_of(error) is trouble
    memory = (Trouble.host_memory, Trouble.device_memory, Trouble.runtime_memory)
    assert is_out_of_memory(error) is (trouble in memory)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("config.json: CUDA out of memory"),
        KeyError("unspecified launch failure"),
        RuntimeError("The size of tensor a (4) must match the size of tensor b (5)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`"),
        accelerator(1, "invalid argument"),
        accelerator(701, "too many resources requested for launch"),
        torch.linalg.LinAlgError("cusolver error: CUSOLVER_STATUS_INVALID_VALUE"),  # type: ignore[attr-defined]
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=str,
)
def test_what_only_sounds_like_it_is_not_the_machines(error: BaseException) -> None:
    assert trouble_of(error) is None


def test_an_error_that_another_one_led_to_is_told_by_the_first() -> None:
    def raise_later(cause: BaseException, *, hidden: bool) -> BaseException:
        try:
            try:
                raise cause
            except BaseException as error:
                raise TypeError("what came of it") from (None if hidden else error)
        except TypeError as caught:
            return caught

    assert trouble_of(raise_later(MemoryError(), hidden=False)) is Trouble.host_memory
    assert trouble_of(raise_later(MemoryError(), hidden=True)) is None
