"""NVIDIA's two libraries by their C interfaces: the driver (CUDA) and its monitor (NVML).

By ctypes and not by torch, so that a look takes less than a second and a driver is heard in its own words.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

CUDA_LIBRARY: Final = "libcuda.so.1"
NVML_LIBRARY: Final = "libnvidia-ml.so.1"
CUDA_NO_MEMORY: Final = 2
CUDA_NO_DEVICE: Final = 100
PATTERN: Final = 0xA5


class DriverError(Exception):
    """A call has failed. code: of CUresult or nvmlReturn_t."""

    def __init__(self, call: str, code: int, name: str) -> None:
        super().__init__(f"{call}: {name} ({code})")
        self.code = code


def _result(library: Any, name: str, *arguments: Any) -> int:
    """Raises DriverError for a call that the library has not."""
    try:
        call = getattr(library, name)
    except AttributeError:
        raise DriverError(name, -1, "the driver is too old for it") from None
    return int(call(*arguments))


class Cuda:
    """libcuda, started."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._call("cuInit", ctypes.c_uint(0))

    def count(self) -> int:
        """Visible devices."""
        found = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(found))
        return found.value

    def device(self, ordinal: int) -> ctypes.c_int:
        found = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(found), ctypes.c_int(ordinal))
        return found

    def name(self, device: ctypes.c_int) -> str:
        text = ctypes.create_string_buffer(100)
        self._call("cuDeviceGetName", text, ctypes.c_int(100), device)
        return text.value.decode(errors="replace")

    def uuid(self, device: ctypes.c_int) -> str:
        """Of the GPU, or of the part of one that MIG makes."""
        found = (ctypes.c_ubyte * 16)()
        self._call("cuDeviceGetUuid_v2", ctypes.byref(found), device)
        return str(UUID(bytes=bytes(found)))

    @contextmanager
    def context(self, device: ctypes.c_int) -> Iterator[None]:
        """Work on the device is possible inside."""
        found = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(found), device)
        try:
            self._call("cuCtxSetCurrent", found)
            yield
        finally:
            self._library.cuDevicePrimaryCtxRelease_v2(device)

    def memory(self) -> tuple[int, int]:
        """Free and all bytes, in a context."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def write_and_read(self, size: int) -> bool:
        """Whether the device, in a context, gives back what it was told to write."""
        place, read = ctypes.c_uint64(), ctypes.create_string_buffer(size)
        self._call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(size))
        try:
            self._call("cuMemsetD8_v2", place, ctypes.c_ubyte(PATTERN), ctypes.c_size_t(size))
            self._call("cuMemcpyDtoH_v2", read, place, ctypes.c_size_t(size))
        finally:
            self._library.cuMemFree_v2(place)
        return read.raw == bytes([PATTERN]) * size

    def version(self) -> int:
        """Of CUDA, as the driver serves it: 13000 is 13.0."""
        found = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(found))
        return found.value

    def _call(self, name: str, *arguments: Any) -> None:
        if (code := _result(self._library, name, *arguments)) != 0:
            said = ctypes.c_char_p()
            known = self._library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(said)) == 0
            raise DriverError(name, code, (said.value or b"").decode() if known else "unknown error")


@dataclass(frozen=True)
class Held:
    """A process, and the memory of the GPU that it holds; None where the system does not say."""

    pid: int
    size: int | None


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("size", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


class Nvml:
    """libnvidia-ml, started, for one GPU."""

    def __init__(self, library: Any, uuid: str) -> None:
        """uuid: as `Cuda.uuid` has it."""
        self._library = library
        self._call("nvmlInit_v2")
        self._device = ctypes.c_void_p()
        for kind in ("GPU", "MIG"):
            name = ctypes.c_char_p(f"{kind}-{uuid}".encode())
            code = int(library.nvmlDeviceGetHandleByUUID(name, ctypes.byref(self._device)))
            if code == 0:
                return
        raise DriverError("nvmlDeviceGetHandleByUUID", code, self._name(code))

    def memory(self) -> tuple[int, int]:
        """Free and all bytes."""
        found = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", self._device, ctypes.byref(found))
        return found.free, found.total

    def remapping_failed(self) -> bool:
        """Whether a row of memory was broken and there was no spare for it; False where the GPU does not know."""
        counts = [ctypes.c_uint() for _ in range(4)]
        code = self._library.nvmlDeviceGetRemappedRows(self._device, *map(ctypes.byref, counts))
        return code == 0 and counts[3].value != 0

    def processes(self) -> list[Held]:
        """Those that compute on the GPU, as far as the system shows them."""
        found, count = (_Process * 64)(), ctypes.c_uint(64)
        code = self._library.nvmlDeviceGetComputeRunningProcesses_v3(self._device, ctypes.byref(count), found)
        if code != 0:
            return []
        unknown = 2**64 - 1
        return [Held(each.pid, None if each.size == unknown else each.size) for each in found[: count.value]]

    def _call(self, name: str, *arguments: Any) -> None:
        if (code := _result(self._library, name, *arguments)) != 0:
            raise DriverError(name, code, self._name(code))

    def _name(self, code: int) -> str:
        call = self._library.nvmlErrorString
        call.restype = ctypes.c_char_p
        return (call(ctypes.c_int(code)) or b"").decode(errors="replace")
