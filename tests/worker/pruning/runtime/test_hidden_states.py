import gc
import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pretend_gpu import pretend_gpu
from worker.pruning.runtime import scratch_file
from worker.pruning.runtime.hidden_states import HiddenStates, Room, host_room

CPU = torch.device("cpu")
BATCH = 2 * 5 * 8 * 4
"""Bytes of one of `states` in float32; so many in page-locked memory take twice as many at the most."""


def states(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(2, 5, 8).to(dtype) for _ in range(5)] + [torch.randn(1, 5, 8).to(dtype)]


def mapped(folder: Path) -> int:
    """Ranges of this process's memory that are files of `folder`."""
    return sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())


def machine(device: str) -> AbstractContextManager[Any]:
    return pretend_gpu() if device == "cuda" else nullcontext()


ROOMS = {
    "all on the device": Room(device=2**20),
    "some on each": Room(device=2 * BATCH, host=4 * BATCH),
    "device and file": Room(device=3 * BATCH),
    "all in memory": Room(host=2**20),
    "memory and file": Room(host=4 * BATCH),
    "all in the file": Room(),
}


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    with machine(request.param):
        yield torch.device(request.param)


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_what_they_were_wherever_they_are(
    tmp_path: Path, device: torch.device, dtype: torch.dtype, room: Room
) -> None:
    """Over several passes, each of which replaces every state while the next one is already on its way."""
    expected = states(dtype)
    with HiddenStates(tmp_path, device, room) as hidden:
        for state in expected:
            hidden.append(state.to(device))
        for step in range(3):
            for index, state in enumerate(hidden):
                assert (state.device.type, state.dtype) == (device.type, dtype)
                hidden[index] = state * 2 + step
            expected = [state * 2 + step for state in expected]
        assert len(hidden) == len(expected) == len(list(hidden))
        for index, state in enumerate(expected):
            assert torch.equal(hidden[index].cpu(), state)
            assert torch.equal(hidden.window(index).cpu(), state[:1])
        some = hidden[1:4]
        assert [len(some), *some.window(1).shape] == [3, 1, 5, 8]
        assert all(torch.equal(one.cpu(), other) for one, other in zip(some, expected[1:4], strict=True))


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
def test_two_stores_are_passed_side_by_side(tmp_path: Path, device: torch.device, room: Room) -> None:
    one, other = ([state + offset for state in states()] for offset in (0, 1))
    with HiddenStates(tmp_path, device, room) as first, HiddenStates(tmp_path, device, room) as second:
        for a, b in zip(one, other, strict=True):
            first.append(a.to(device))
            second.append(b.to(device))
        for index, (a, b) in enumerate(zip(first[2:], second[2:], strict=False), 2):
            first[index], second[index] = a + b, b
        assert all(torch.equal(first[i].cpu(), one[i] + other[i] * (i > 1)) for i in range(6))


def test_a_pass_that_is_given_up_leaves_nothing_under_way(tmp_path: Path, device: torch.device) -> None:
    for room in ROOMS.values():
        with HiddenStates(tmp_path, device, room) as hidden:
            given = states()
            for state in given:
                hidden.append(state.to(device))
            for _ in hidden:
                break
            hidden[0] = given[0].to(device) + 1
            found = [state.cpu() for state in hidden]
            assert torch.equal(found[0], given[0] + 1)
            assert all(torch.equal(a, b) for a, b in zip(found[1:], given[1:], strict=True))


def test_batches_that_grow_find_room(tmp_path: Path, device: torch.device) -> None:
    given = [torch.randn(1, size, 4) for size in (3, 9, 27, 81, 5, 243)]
    for room in (Room(), Room(host=2**20), Room(device=400)):
        with HiddenStates(tmp_path, device, room) as hidden:
            for state in given:
                hidden.append(state.to(device))
            for index, state in enumerate(hidden):
                hidden[index] = -state
            assert all(torch.equal(state.cpu(), -own) for state, own in zip(hidden, given, strict=True))


def test_states_on_the_device_cross_no_bus(tmp_path: Path) -> None:
    with pretend_gpu() as counts, HiddenStates(tmp_path, torch.device("cuda"), Room(device=2**20)) as hidden:
        for state in states():
            hidden.append(state.to("cuda"))
        sent = counts.total("uploads_bytes")
        for index, state in enumerate(hidden):
            hidden[index] = state + 1
        assert counts.total("uploads_bytes") == sent
        assert counts.total("downloads_bytes") == 0


@pytest.mark.parametrize("room", [Room(host=2**20), Room()], ids=["memory", "file"])
def test_a_pass_sends_and_fetches_each_state_once_and_the_host_waits_for_none_in_memory(
    tmp_path: Path, room: Room
) -> None:
    with pretend_gpu() as counts, HiddenStates(tmp_path, torch.device("cuda"), room) as hidden:
        given = states()
        for state in given:
            hidden.append(state.to("cuda"))
        held = sum(state.nbytes for state in given)
        before = [counts.total(name) for name in ("uploads_bytes", "downloads_bytes", "synchronisations")]
        for index, state in enumerate(hidden):
            hidden[index] = state + 1
        after = [counts.total(name) for name in ("uploads_bytes", "downloads_bytes", "synchronisations")]
        assert [now - then for now, then in zip(after[:2], before[:2], strict=True)] == [held, held]
        if room.host:
            assert after[2] == before[2]
        assert counts.live[0] <= 5 * BATCH  # two buffers each way, and what is made of the last state


def test_the_store_has_memory_of_its_own(tmp_path: Path) -> None:
    given = torch.zeros(4)
    hidden = HiddenStates(tmp_path, CPU, Room(host=given.nbytes))
    hidden.append(given)
    given += 1
    assert hidden[0].tolist() == [0.0] * 4


def test_the_scratch_file_has_no_name_and_goes_with_the_states(tmp_path: Path) -> None:
    hidden = HiddenStates(tmp_path, CPU, Room())
    hidden.append(torch.zeros(100_000))
    assert list(tmp_path.iterdir()) == []
    assert mapped(tmp_path) == 1
    hidden.clear()
    gc.collect()
    assert (len(hidden), hidden.on_disk, mapped(tmp_path)) == (0, 0, 0)


def test_room_is_free_again_after_clearing(tmp_path: Path, device: torch.device) -> None:
    hidden = HiddenStates(tmp_path, device, Room(host=512))
    for _ in range(3):
        hidden.append(torch.zeros(100, device=device))
        assert hidden.on_disk == 0
        hidden.append(torch.zeros(100, device=device))
        assert hidden.on_disk > 0
        hidden.clear()


def test_what_the_disk_cannot_hold_is_an_error_at_once(tmp_path: Path, device: torch.device) -> None:
    """A page without space behind it would end the process by a signal when it is first written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    state = torch.zeros(2**18, device=device)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with HiddenStates(tmp_path, device, Room()) as hidden, pytest.raises(OSError, match="large"):
            hidden.append(state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_state_that_could_not_be_written_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    with pretend_gpu(), HiddenStates(tmp_path, torch.device("cuda"), Room()) as hidden:
        hidden.append(torch.zeros(4, device="cuda"))
        monkeypatch.setattr(scratch_file.ScratchFile, "write", fail)
        hidden[0] = torch.ones(4, device="cuda")
        with pytest.raises(OSError, match="the disk is gone"):
            hidden[0]


def test_memory_for_states_is_what_was_asked_or_a_part_of_the_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.pruning.runtime.hidden_states.host_memory_bytes", lambda: 64 * 2**30)
    assert [host_room(None), host_room(0), host_room(7)] == [8 * 2**30, 0, 7]


def test_a_gpu_s_room_is_what_is_left_beside_everything_else() -> None:
    with pretend_gpu(memory=16 * 2**30):
        cuda = torch.device("cuda")
        held = torch.empty(2**30, dtype=torch.uint8, device=cuda)
        assert Room.beside(4 * 2**30, [cuda], 5) == Room(device=10 * 2**30, host=5)
        assert Room.beside(20 * 2**30, [cuda], 5) == Room(host=5)
        assert len(held) == 2**30
    assert Room.beside(4 * 2**30, [CPU], 5) == Room(host=5)
    assert Room(9, 7).shared(2) == Room(4, 3)


@pytest.mark.parametrize("room", [Room(device=2**20), Room(host=2**20), Room()], ids=["device", "host", "file"])
def test_states_of_two_devices_come_back_where_they_were(tmp_path: Path, room: Room) -> None:
    devices = [torch.device("cuda", number) for number in range(2)]
    with pretend_gpu(devices=2), HiddenStates(tmp_path, devices, room) as hidden:
        given = [torch.full((2, 3, 4), float(number)) for number in range(5)]
        for number, state in enumerate(given):
            hidden.append(state.to(devices[number % 2]))
        for index, state in enumerate(hidden):
            assert state.device == devices[index % 2]
            hidden[index] = state + 1
        for state, before in zip(hidden, given, strict=True):
            assert torch.equal(state.cpu(), before + 1)
