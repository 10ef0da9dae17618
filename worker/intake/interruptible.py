"""A network that notices within a second that its work must stop, however slowly the other side sends."""

import time
from collections.abc import Callable
from typing import Any, Final

SLICE_SECONDS: Final = 1.0


class Interruptible:
    """A network backend of httpcore2 whose reads look, before each second of waiting, whether they may go on."""

    def __init__(self, inner: Any, check: Callable[[], None], read_timeout: type[Exception]) -> None:
        """check: raises when the work must stop. read_timeout: what `inner` raises when nothing comes in time."""
        self._inner = inner
        self._check = check
        self._read_timeout = read_timeout

    def connect_tcp(self, *arguments: Any, **options: Any) -> Any:
        self._check()
        return self._wrap(self._inner.connect_tcp(*arguments, **options))

    def connect_unix_socket(self, *arguments: Any, **options: Any) -> Any:
        return self._wrap(self._inner.connect_unix_socket(*arguments, **options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)

    def _wrap(self, stream: Any) -> "_Stream":
        return _Stream(stream, self._check, self._read_timeout)


class _Stream:
    def __init__(self, inner: Any, check: Callable[[], None], read_timeout: type[Exception]) -> None:
        self._inner = inner
        self._check = check
        self._read_timeout = read_timeout

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._check()
            left = SLICE_SECONDS if deadline is None else deadline - time.monotonic()
            try:
                data: bytes = self._inner.read(max_bytes, max(0.001, min(SLICE_SECONDS, left)))
            except self._read_timeout:
                if left <= SLICE_SECONDS and deadline is not None:
                    raise
            else:
                return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *arguments: Any, **options: Any) -> "_Stream":
        return _Stream(self._inner.start_tls(*arguments, **options), self._check, self._read_timeout)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
