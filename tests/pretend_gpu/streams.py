"""Streams, events, and what goes wrong between them.

Every stream counts what was launched on it, and knows how far it has waited for the others (a vector clock); so
does the host. A tensor that is used on a stream before that stream knows of the write is a race, on a real device
a wrong number now and then. Here it raises at once. A copy to pinned memory that does not wait leaves nonsense
there until the host has waited for it; one from pinned memory looks, when it is over, whether the host has written
there meanwhile.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ContextDecorator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

import torch
from torch import Tensor

from tests.pretend_gpu.machine import machine

_numbers = count(1)
_current = threading.local()


class Race(RuntimeError):
    """Work of two streams, or of a stream and the host, that nothing puts in order."""


@dataclass
class Usage:
    """Who wrote a storage last and who has read it since, as ticks of streams."""

    home: "Stream"
    writes: dict["Stream", int] = field(default_factory=dict)
    reads: dict["Stream", int] = field(default_factory=dict)
    recorded: set["Stream"] = field(default_factory=set)


class Stream:
    """Of one device. known: how far each stream has come that this one has waited for; its own ticks, too."""

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        owner = machine()
        place = owner.device("cuda" if device is None else device)
        assert place is not None
        self.device, self.priority, self.number = place, priority, next(_numbers)
        self.known: Counter[Stream] = Counter()
        self._merged: Counter[Stream] | None = None

    @property
    def device_index(self) -> int:
        return int(self.device.index)

    @property
    def cuda_stream(self) -> int:
        return self.number

    stream_id = cuda_stream

    def wait_event(self, event: "Event") -> None:
        self.known |= event.known

    def wait_stream(self, stream: "Stream") -> None:
        self.known |= stream.known

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        _host_has_seen(self.known)
        return True

    def synchronize(self) -> None:
        machine().counts.add("synchronisations")
        _host_has_seen(self.known)

    def tick(self) -> int:
        """The next thing launched here; what the host knows, it was launched after."""
        host = _schedule().host
        if host is not self._merged:
            self.known |= host
            self._merged = host
        self.known[self] += 1
        return self.known[self]

    def __enter__(self) -> Self:
        _stack().append((self.device_index, current_stream(self.device), machine().current))
        set_stream(self)
        return self

    def __exit__(self, *_: object) -> None:
        _, before, device = _stack().pop()
        set_stream(before)
        machine().current = device


class Event:
    """A place in a stream."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self.known: Counter[Stream] = Counter()

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or current_stream()
        self.known = stream.known | _schedule().host

    def wait(self, stream: Stream | None = None) -> None:
        (stream or current_stream()).wait_event(self)

    def query(self) -> bool:
        _host_has_seen(self.known)
        return True

    def synchronize(self) -> None:
        machine().counts.add("synchronisations")
        _host_has_seen(self.known)

    def elapsed_time(self, end: "Event") -> float:
        return 0.0


@dataclass(frozen=True)
class Copy:
    """From (`up`) or to a storage of the host, as so many ticks of a stream. end: what is to be done then."""

    stream: Stream
    tick: int
    storage: int
    up: bool
    end: Callable[[], None]


@dataclass
class Schedule:
    """host: what the host has waited for. underway: copies that it has not.
    faults: of memory, to be raised at the next launch. ticks: how far every stream has come."""

    host: Counter[Stream] = field(default_factory=Counter)
    underway: list["Copy"] = field(default_factory=list)
    defaults: dict[int, Stream] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    ticks: Counter[Stream] = field(default_factory=Counter)
    lock: threading.RLock = field(default_factory=threading.RLock)


class _With(ContextDecorator):
    """torch.cuda.stream(…)."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        if self.stream is not None:
            self.stream.__enter__()

    def __exit__(self, *_: object) -> None:
        if self.stream is not None:
            self.stream.__exit__()


def stream(stream: Stream | None) -> _With:
    return _With(stream)


def default_stream(device: Any = None) -> Stream:
    index = _index(device)
    if index not in _schedule().defaults:
        _schedule().defaults[index] = Stream(index)
    return _schedule().defaults[index]


def current_stream(device: Any = None) -> Stream:
    index = _index(device)
    owner, chosen = getattr(_current, "chosen", (None, {}))
    return chosen.get(index) or default_stream(index) if owner is machine() else default_stream(index)


def set_stream(stream: Stream) -> None:
    """For this thread; its device becomes the current one."""
    if getattr(_current, "chosen", (None,))[0] is not machine():
        _current.chosen = (machine(), {})
    _current.chosen[1][stream.device_index] = stream
    machine().current = stream.device_index


def synchronize(device: Any = None) -> None:
    """Everything on a device."""
    machine().counts.add("synchronisations")
    index = _index(device)
    _host_has_seen(Counter({each: n for each, n in _schedule().ticks.items() if each.device_index == index}))


def launched(place: torch.device, reads: list[Tensor], writes: list[Tensor]) -> None:
    """Something runs on the device's current stream, in order with what it uses. Raises Race."""
    here = current_stream(place.index)
    tick = here.tick()
    _schedule().ticks[here] = tick
    if _schedule().faults:
        raise Race(_schedule().faults.pop())
    for tensor in reads:
        usage = usage_of(tensor, here)
        _check(here, usage.writes, "reads what another stream writes")
        usage.reads[here] = tick
    for tensor in writes:
        usage = usage_of(tensor, here)
        _check(here, usage.writes, "writes what another stream uses")
        _check(here, usage.reads, "writes what another stream uses")
        usage.writes, usage.reads = {here: tick}, {}


def about_to_copy(host: Tensor, place: torch.device, *, up: bool) -> None:
    """Earlier copies to this memory of the host are over for what the current stream copies, and so are those from
    it that would be overwritten. Raises Race where the stream has not waited for them."""
    here, schedule, storage = current_stream(place), _schedule(), host.untyped_storage().data_ptr()
    with schedule.lock:
        before = [each for each in schedule.underway if each.storage == storage and not (up and each.up)]
        for each in before:
            if max(here.known[each.stream], schedule.host[each.stream]) < each.tick:
                raise Race(f"stream {here.number} copies what another stream copies: wait_event is missing")
            each.end()
        schedule.underway = [each for each in schedule.underway if each not in before]


def copied(host: Tensor, device: Any, *, up: bool, waits: bool) -> None:
    """A copy between host and `device` was launched, and done at once: make up for what a real one does later."""
    here = current_stream(device.place)
    launched(device.place, [] if up else [device.held], [device.held] if up else [])
    if waits:
        _host_has_seen(here.known)
    elif not machine().shapes and host.numel():
        kept = host.detach().clone()
        if not up:
            host.view(-1).view(torch.uint8).fill_(0xAB) if host.is_contiguous() else host.fill_(-77)
        end = _same(host, kept) if up else lambda: host.copy_(kept)
        storage = host.untyped_storage().data_ptr()
        with _schedule().lock:
            _schedule().underway.append(Copy(here, here.known[here], storage, up, end))


def host_waits(place: torch.device) -> None:
    """The host has read from a device: it knows all of that device's current stream."""
    _host_has_seen(current_stream(place).known)


def usage_of(tensor: Tensor, here: Stream) -> Usage:
    """Of a device's storage."""
    kept = tensor.untyped_storage().__dict__
    found: Usage | None = kept.get("usage")
    if found is None:
        found = kept["usage"] = Usage(here)
    return found


def freed(usage: Usage) -> None:
    """Memory goes back to the stream that it was taken on, which must not use it before the others are done."""
    for each, tick in (*usage.writes.items(), *usage.reads.items()):
        if each is usage.home or each in usage.recorded:
            continue
        if max(usage.home.known[each], _schedule().host[each]) < tick:
            _schedule().faults.append("memory was freed while another stream used it: record_stream is missing")


def finish() -> None:
    """All copies end. Raises Race."""
    _host_has_seen(_schedule().ticks)
    if _schedule().faults:
        raise Race(_schedule().faults[0])


def _check(here: Stream, others: Mapping[Stream, int], what: str) -> None:
    for each, tick in others.items():
        if each is not here and here.known[each] < tick:
            raise Race(f"stream {here.number} {what}: wait_stream or wait_event is missing")


def _same(host: Tensor, kept: Tensor) -> Callable[[], None]:
    def check() -> None:
        if not torch.equal(host.nan_to_num(), kept.nan_to_num()):
            raise Race("pinned memory was written to while a copy from it was under way")

    return check


def _host_has_seen(known: Counter[Stream]) -> None:
    schedule = _schedule()
    with schedule.lock:
        if all(schedule.host[each] >= ticks for each, ticks in known.items()):
            return
        schedule.host = schedule.host | known  # another object, by which streams see that there is more to know
        over = [each for each in schedule.underway if schedule.host[each.stream] >= each.tick]
        schedule.underway = [each for each in schedule.underway if each not in over]
        for each in over:
            each.end()


def _schedule() -> Schedule:
    owner = machine()
    if owner.schedule is None:
        owner.schedule = Schedule()
    found: Schedule = owner.schedule
    return found


def _stack() -> list[tuple[int, Stream, int]]:
    if not hasattr(_current, "stack"):
        _current.stack = []
    found: list[tuple[int, Stream, int]] = _current.stack
    return found


def _index(device: Any) -> int:
    if type(device) is int:
        return device
    place = machine().device("cuda" if device is None else device)
    assert place is not None
    return int(place.index)
