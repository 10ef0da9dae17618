"""Hidden states between two blocks: on a GPU as far as they fit, then in the host's memory, then in a file.

Where a state is changes when it is copied and never what it is.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self, overload

import torch
from torch import Tensor

from secateur.spec.request import HIDDEN_PART
from worker.isolation.limits import host_memory_bytes
from worker.pruning.runtime.scratch_file import ScratchFile
from worker.pruning.runtime.transfers import Buffer, Sent, Transfers, Turns, page_locked

PROBE_TOKENS: Final = 16
"""That show how a block is built: who reads what, which channels are free."""
SPARE: Final = 1 / 16
"""Of a GPU's memory, what an estimate may be wrong by, and the allocator's holes."""


@dataclass(frozen=True)
class Room:
    """Bytes that hidden states may take. device: of each GPU's memory. host: of memory."""

    device: int = 0
    host: int = 0

    @classmethod
    def beside(cls, needed: float, devices: Sequence[torch.device], asked: int | None) -> "Room":
        """What is left beside so many bytes of each GPU that all else is to take. asked: see `host_room`."""
        if devices[0].type != "cuda":
            return cls(0, host_room(asked))
        left = []
        for device in devices:
            free, total = torch.cuda.mem_get_info(device)
            left.append(max(int(free - needed - SPARE * total), 0))
        return cls(min(left), host_room(asked))

    def shared(self, stores: int) -> "Room":
        """The part of one of so many stores."""
        return Room(self.device // stores, self.host // stores)


def host_room(asked: int | None) -> int:
    """Bytes of memory for hidden states: as asked, or a part of what this process may have."""
    return host_memory_bytes() // HIDDEN_PART if asked is None else asked


class Coming(Protocol):
    """A state on its way to the device."""

    def take(self) -> Tensor:
        """It, there."""

    def done(self) -> None:
        """It is not wanted any more."""


class Home(Protocol):
    """Where one state is."""

    def put(self, state: Tensor) -> None:
        """Replace it by one of its shape, on the device."""

    def part(self, start: int, count: int) -> Tensor:
        """So many of its rows, of its first dimension, on the device."""

    def whole(self) -> Tensor:
        """All of it, on the device."""

    def coming(self) -> Coming:
        """Begin to bring it to the device. Two may be on their way or in use at once."""


class HiddenStates:
    """One tensor a batch, handed out on the device that it came from. Each keeps its shape and dtype.

    The first ones of a device are there until `room.device` bytes are used, the next ones in memory (page-locked
    for a GPU) until `room.host` are, the others in a file in `folder`. A full disk is an OSError from `append`.
    """

    def __init__(self, folder: Path, devices: torch.device | Sequence[torch.device], room: Room) -> None:
        self._devices = (devices,) if isinstance(devices, torch.device) else tuple(devices)
        self._room = room
        self._file = ScratchFile(folder)
        on_gpu = self._devices[0].type == "cuda"
        self._remotes = {each: _Remote(each, self._file) for each in self._devices if on_gpu}
        self._homes: list[Home] = []
        self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def __len__(self) -> int:
        return len(self._homes)

    def __iter__(self) -> Iterator[Tensor]:
        """One after another, each until the next one is asked for, which is brought meanwhile."""
        return iter(self[:])

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> "Batches": ...
    def __getitem__(self, index: int | slice) -> "Tensor | Batches":
        if isinstance(index, slice):
            return Batches(self._homes[index])
        return self._homes[index].whole()

    def __setitem__(self, index: int, state: Tensor) -> None:
        """Replace a state by one of its shape."""
        self._homes[index].put(state)

    def window(self, index: int, number: int = 0) -> Tensor:
        """One window of a batch, (1, length, width)."""
        return self[:].window(index, number)

    def probe(self, index: int = 0) -> Tensor:
        """The first tokens of a batch, (1, at most PROBE_TOKENS, width)."""
        return self.window(index)[:, :PROBE_TOKENS]

    @property
    def on_disk(self) -> int:
        """Bytes of the scratch file."""
        return self._file.size

    def append(self, state: Tensor) -> None:
        self._homes.append(self._home(state))
        self[-1] = state

    def clear(self) -> None:
        """Forget every state, and the file."""
        locked = bool(self._remotes) and self._left_host < self._room.host
        self._homes = []
        self._forget()
        for remote in self._remotes.values():
            remote.close()
        if locked and torch.accelerator.is_available():
            # Torch keeps it by its sizes, and the next store's may be others.
            torch.accelerator.empty_host_cache()
        self._file.close()

    def _forget(self) -> None:
        self._left, self._left_host = dict.fromkeys(self._devices, self._room.device), self._room.host

    def _home(self, state: Tensor) -> Home:
        # A single device may go by a name without its number.
        device = state.device if len(self._devices) > 1 else self._devices[0]
        size, remote = state.nbytes, self._remotes.get(device)
        if remote is not None and size <= self._left[device]:
            self._left[device] -= size
            return _Here(torch.empty(state.shape, dtype=state.dtype, device=device))
        taken = size if remote is None else page_locked(size)
        if taken <= self._left_host:
            self._left_host -= taken
            if remote is not None:
                return _Pinned(torch.empty(state.shape, dtype=state.dtype, pin_memory=True), remote)
            return _Here(torch.empty(state.shape, dtype=state.dtype))
        start = self._file.reserve(size)
        if remote is not None:
            return _Filed(start, state.shape, state.dtype, remote)
        return _Here(self._file.mapped(start, size).view(state.dtype).view(state.shape))


class Batches:
    """Some states of a store, in their order."""

    def __init__(self, homes: Sequence[Home]) -> None:
        self._homes = homes

    def __len__(self) -> int:
        return len(self._homes)

    def __iter__(self) -> Iterator[Tensor]:
        """See `HiddenStates`."""
        coming: deque[Coming] = deque()
        for number in range(len(self._homes)):
            for home in self._homes[number + len(coming) : number + 2]:
                coming.append(home.coming())
            state = coming.popleft()
            try:
                yield state.take()
            finally:
                state.done()

    def window(self, index: int, number: int = 0) -> Tensor:
        """One window of a batch, (1, length, width)."""
        return self._homes[index].part(number, 1)


@dataclass
class _Here:
    """Where it is computed with: on the GPU, or for the CPU in memory, which may be a file's pages."""

    state: Tensor

    def put(self, state: Tensor) -> None:
        self.state.copy_(state)

    def part(self, start: int, count: int) -> Tensor:
        return self.state[start : start + count]

    def whole(self) -> Tensor:
        return self.state

    def coming(self) -> Coming:
        return self

    def take(self) -> Tensor:
        return self.state

    def done(self) -> None:
        pass


class _Remote:
    """How a GPU's states get to memory and to the file. Its pages are page-locked memory for the file, which one
    thread reads and writes in the order in which it was asked."""

    def __init__(self, device: torch.device, file: ScratchFile) -> None:
        self.transfers = Transfers(device)
        self.reading, self.writing = (Turns(_page, lambda _: None) for _ in range(2))
        self._file = file
        self._thread: ThreadPoolExecutor | None = None
        self._writes: deque[Future[None]] = deque()
        self._failed: OSError | None = None

    def page_to_write(self, size: int) -> Buffer:
        """Waits until its bytes are in the file. Raises OSError of what could not be written."""
        while len(self._writes) >= 2:
            self._writes.popleft().result()
        return self.writing.next(size)

    def write(self, start: int, page: Buffer, size: int) -> None:
        """Begin to write a page, once it is fetched."""
        fetched, given = page.free, page.bytes.numpy().data[:size]

        def write() -> None:
            fetched.synchronize()
            try:
                self._file.write(start, given)
            except OSError as error:
                self._failed = error
                raise

        self._writes.append(self._begin(write))

    def read(self, start: int, page: Buffer, size: int) -> "Future[None]":
        """Begin to read a page, once what it held is sent. Raises OSError, also of what could not be written."""
        sent, into = page.free, page.bytes.numpy().data[:size]

        def read() -> None:
            if sent is not None:
                sent.synchronize()
            if self._failed is not None:
                raise self._failed
            self._file.read(start, into)

        return self._begin(read)

    def close(self) -> None:
        """Give buffers and pages back, when nothing is under way."""
        self.transfers.close()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        self._writes.clear()
        self.reading.clear()
        self.writing.clear()
        self._failed = None

    def _begin(self, task: Callable[[], None]) -> "Future[None]":
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "hidden-states")
        return self._thread.submit(task)


def _page(size: int) -> Buffer:
    return Buffer(torch.empty(size, dtype=torch.uint8, pin_memory=True))


@dataclass
class _Pinned:
    """In page-locked memory. written: the event that what was put is there."""

    state: Tensor
    remote: _Remote
    written: object = None

    def put(self, state: Tensor) -> None:
        self.written = self.remote.transfers.fetch(state, self.state)

    def part(self, start: int, count: int) -> Tensor:
        return self.remote.transfers.now(self.state[start : start + count], self.written)

    def whole(self) -> Tensor:
        return self.remote.transfers.now(self.state, self.written)

    def coming(self) -> Coming:
        return _Sent(self.remote.transfers, self.remote.transfers.send(self.state, self.written))


@dataclass
class _Sent:
    transfers: Transfers
    sent: Sent

    def take(self) -> Tensor:
        return self.transfers.arrived(self.sent)

    def done(self) -> None:
        self.transfers.done(self.sent)


@dataclass
class _Filed:
    """In the file, from `start`."""

    start: int
    shape: torch.Size
    dtype: torch.dtype
    remote: _Remote

    def put(self, state: Tensor) -> None:
        page = self.remote.page_to_write(self.size)
        page.free = self.remote.transfers.fetch(state, page.like(self.shape, self.dtype))
        self.remote.write(self.start, page, self.size)

    def part(self, start: int, count: int) -> Tensor:
        row = self.shape[1:].numel() * self.dtype.itemsize
        return self._read(self.start + start * row, torch.Size((count, *self.shape[1:])))

    def whole(self) -> Tensor:
        return self._read(self.start, self.shape)

    def coming(self) -> Coming:
        page = self.remote.reading.next(self.size)
        return _Read(self, page, self.remote.read(self.start, page, self.size))

    @property
    def size(self) -> int:
        return self.shape.numel() * self.dtype.itemsize

    def _read(self, start: int, shape: torch.Size) -> Tensor:
        size = shape.numel() * self.dtype.itemsize
        page = _page(size)
        self.remote.read(start, page, size).result()
        return self.remote.transfers.now(page.like(shape, self.dtype))


@dataclass
class _Read:
    """What is being read from the file, to be sent."""

    home: _Filed
    page: Buffer
    reading: "Future[None]"
    sent: Sent | None = None

    def take(self) -> Tensor:
        self.reading.result()
        transfers = self.home.remote.transfers
        self.sent = transfers.send(self.page.like(self.home.shape, self.home.dtype))
        self.page.free = self.sent.there
        return transfers.arrived(self.sent)

    def done(self) -> None:
        if self.sent is not None:
            self.home.remote.transfers.done(self.sent)
