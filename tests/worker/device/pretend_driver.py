"""NVIDIA's libraries as Python objects: the calls that `worker.device.nvidia` makes, by the C interface."""

import ctypes
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

UUIDS = [UUID(int=0xA0 + number) for number in range(4)]
GB = 10**9


class _Library:
    """A call is the method of its name behind `_`; 0 where that gives nothing."""

    fails: dict[str, int]

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("cu", "nvml")):
            if name in self.fails:
                return lambda *_: self.fails[name]
            if (call := getattr(type(self), f"_{name}", None)) is not None:
                return lambda *arguments: 0 if (found := call(self, *arguments)) is None else found
        raise AttributeError(name)


@dataclass
class PretendCuda(_Library):
    """fails: call → CUresult. free, total: bytes."""

    gpus: int = 1
    fails: dict[str, int] = field(default_factory=dict)
    free: int = 79 * GB
    total: int = 80 * GB
    serves: int = 13000
    forgets: bool = False
    contexts: int = 0
    held: int = 0

    def _cuInit(self, flags: ctypes.c_uint) -> None:
        assert flags.value == 0

    def _cuDriverGetVersion(self, found: Any) -> None:
        found._obj.value = self.serves

    def _cuDeviceGetCount(self, found: Any) -> None:
        found._obj.value = self.gpus

    def _cuDeviceGet(self, found: Any, ordinal: ctypes.c_int) -> None:
        found._obj.value = ordinal.value

    def _cuDeviceGetName(self, text: Any, size: ctypes.c_int, device: ctypes.c_int) -> None:
        text.value = f"Pretend {device.value}".encode()[: size.value]

    def _cuDeviceGetUuid_v2(self, found: Any, device: ctypes.c_int) -> None:
        found._obj[:] = list(UUIDS[device.value].bytes)

    def _cuDevicePrimaryCtxRetain(self, found: Any, device: ctypes.c_int) -> None:
        found._obj.value = 0x5000 + device.value
        self.contexts += 1

    def _cuDevicePrimaryCtxRelease_v2(self, device: ctypes.c_int) -> None:
        self.contexts -= 1

    def _cuCtxSetCurrent(self, context: ctypes.c_void_p) -> None:
        assert (context.value or 0) >= 0x5000

    def _cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = self.free, self.total

    def _cuMemAlloc_v2(self, place: Any, size: ctypes.c_size_t) -> None:
        place._obj.value = 0x7F00_0000_0000
        self.held += size.value

    def _cuMemFree_v2(self, place: ctypes.c_uint64) -> None:
        assert place.value == 0x7F00_0000_0000
        self.held = 0

    def _cuMemsetD8_v2(self, place: ctypes.c_uint64, value: ctypes.c_ubyte, size: ctypes.c_size_t) -> None:
        self.written = bytes([0 if self.forgets else value.value]) * size.value

    def _cuMemcpyDtoH_v2(self, read: Any, place: ctypes.c_uint64, size: ctypes.c_size_t) -> None:
        ctypes.memmove(read, self.written, size.value)

    def _cuGetErrorName(self, code: ctypes.c_int, found: Any) -> None:
        found._obj.value = f"CUDA_ERROR_{code.value}".encode()


@dataclass
class PretendNvml(_Library):
    """fails: call → nvmlReturn_t. holders: processes, and what each holds; None for one that is not told."""

    used: int = 0
    total: int = 80 * GB
    fails: dict[str, int] = field(default_factory=dict)
    holders: dict[int, int | None] = field(default_factory=dict)
    broken_rows: bool = False
    mig: bool = False

    def _nvmlInit_v2(self) -> None: ...

    def _nvmlErrorString(self, code: ctypes.c_int) -> bytes:
        return f"nvml error {code.value}".encode()

    def _nvmlDeviceGetHandleByUUID(self, name: ctypes.c_char_p, device: Any) -> int:
        known = f"{'MIG' if self.mig else 'GPU'}-{UUIDS[0]}".encode()
        device._obj.value = 0x9000
        return 0 if name.value == known else 6

    def _nvmlDeviceGetMemoryInfo(self, device: ctypes.c_void_p, found: Any) -> None:
        found._obj.total, found._obj.used = self.total, self.used
        found._obj.free = self.total - self.used

    def _nvmlDeviceGetRemappedRows(self, device: ctypes.c_void_p, *counts: Any) -> None:
        counts[3]._obj.value = int(self.broken_rows)

    def _nvmlDeviceGetComputeRunningProcesses_v3(self, device: ctypes.c_void_p, count: Any, found: Any) -> None:
        count._obj.value = len(self.holders)
        for number, (pid, size) in enumerate(self.holders.items()):
            found[number].pid, found[number].size = pid, 2**64 - 1 if size is None else size
