import threading
from collections.abc import Callable

import pytest

from secateur.spec.records.pipe import BlockResult, Message
from tests.records import block_result
from tests.worker.pruning.conftest import Recorder
from worker.pruning import Stopped
from worker.pruning.runtime import behind as module
from worker.pruning.runtime.behind import Behind

FULL = OSError(28, "No space left on device")


def held(number: int, go: threading.Event) -> Callable[[], BlockResult]:
    """Writing a block that takes until `go`."""

    def write() -> BlockResult:
        assert go.wait(10)
        return block_result(0, number)

    return write


def told(recorder: Recorder) -> list[int]:
    return [result.block for result in recorder.blocks]


def full() -> BlockResult:
    raise FULL


def test_a_block_is_told_of_at_the_first_look_after_it_is_written() -> None:
    recorder, go = Recorder(), threading.Event()
    with Behind(recorder) as behind:
        behind.write(held(0, go))
        behind.check()
        assert told(recorder) == []
        go.set()
        behind.begin(lambda: None).result(10)  # the same thread comes to it later
        behind.check()
        assert told(recorder) == [0]
        behind.check()
    assert told(recorder) == [0]


def test_the_next_block_waits_until_the_one_before_is_written() -> None:
    order: list[str] = []

    def write(number: int) -> BlockResult:
        order.append(f"write {number}")
        return block_result(0, number)

    class Ordered(Recorder):
        def tell(self, record: Message) -> None:
            order.append(f"tell {record.block}" if isinstance(record, BlockResult) else "")

    with Behind(Ordered()) as behind:
        for number in range(3):
            behind.write(lambda number=number: write(number))
        behind.settle()
    assert order == [f"{what} {number}" for number in range(3) for what in ("write", "tell")]


@pytest.mark.parametrize("call", ["check", "finish", "settle", "write"])
def test_the_error_of_writing_is_raised_by_the_next_call_as_it_is(call: str) -> None:
    recorder = Recorder()
    with Behind(recorder) as behind:
        behind.write(full)
        behind.begin(lambda: None).result(10)
        again = {"write": lambda: behind.write(lambda: block_result(0, 1))}.get(call, getattr(behind, call))
        with pytest.raises(OSError, match="No space left") as raised:
            again()
    assert raised.value is FULL
    assert told(recorder) == []


def test_what_stops_the_job_waits_for_the_files_and_tells_nothing() -> None:
    recorder, go, written = Recorder(), threading.Event(), threading.Event()

    def write() -> BlockResult:
        assert go.wait(10)
        written.set()
        return block_result(0, 0)

    def job() -> None:
        with Behind(recorder) as behind:
            behind.write(write)
            go.set()
            raise Stopped

    with pytest.raises(Stopped):
        job()
    assert written.is_set()
    assert told(recorder) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("behind")]


def test_the_order_to_stop_goes_before_a_written_block() -> None:
    class Stopping(Recorder):
        def check(self) -> None:
            raise Stopped

    recorder = Stopping()

    def job() -> None:
        with Behind(recorder) as behind:
            behind.write(lambda: block_result(0, 0))
            behind.begin(lambda: None).result(10)
            behind.check()

    with pytest.raises(Stopped):
        job()
    assert told(recorder) == []


def test_a_lane_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, lane = Recorder(), [True]
    monkeypatch.setattr(module, "in_a_lane", lambda: lane[0])
    with Behind(recorder) as behind:
        behind.write(lambda: block_result(0, 0))
        behind.begin(lambda: None).result(10)
        behind.check()
        assert told(recorder) == []
        lane[0] = False
        behind.check()
    assert told(recorder) == [0]
