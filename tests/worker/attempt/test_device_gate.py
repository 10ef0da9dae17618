"""What a worker's GPU does to its jobs: a sick or shared one costs them nothing, and is claimed for no more.

Slow: a look at the device is a process, and so is an engine.
"""

import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.delivery.endings import Failure
from app.settings import Settings
from app.tables.jobs import JobAttempt
from app.tables.states import Reason, State
from tests.jobs import JobMaker
from tests.worker.harness import SCRIPTED, Watch, attempts
from tests.worker.scripted_probe import SECOND, UUID
from worker.attempt import DeviceGate, device_gate, run_jobs
from worker.device.finding import Health
from worker.device.lock import DeviceLock, DeviceTaken

pytestmark = pytest.mark.slow

PROBE = "tests.worker.scripted_probe"
GB = 10**9


@pytest.fixture
def gpu(settings: Settings, tmp_path: Path) -> Settings:
    """Of a worker with a GPU."""
    return settings.model_copy(update={"device": "cuda", "gpu_lock_dir": tmp_path / "gpus"})


@pytest.fixture
def gate(gpu: Settings, find: Callable[[str], None]) -> DeviceGate:
    return DeviceGate(gpu, PROBE)


class Impatient(threading.Event):
    """Nobody waits for it: a worker that would pause is told to stop, and the pause is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0.0)
        if len(self.pauses) >= 3:
            self.set()
        return self.is_set()


def end(session: Session, job: str) -> tuple[State, str | None, int, int]:
    """State, the last attempt's outcome, and what the attempt has cost: of losses, of memory."""
    watch = Watch(session, job)
    return watch.state, attempts(session, job)[-1], watch.row.lost_attempts, watch.row.memory_attempts


@pytest.mark.parametrize(
    ("how", "word", "outcome", "lost", "memory"),
    [
        # A sick device, whatever the engine says of its end.
        ("fault", "sick", "device_unavailable", 0, 0),
        ("fail", "sick", "device_unavailable", 0, 0),
        ("memory", "sick", "device_unavailable", 0, 0),
        ("device", "hang", "device_unavailable", 0, 0),
        ("full", "other", "device_unavailable", 0, 0),
        ("fail", "absent", "device_unavailable", 0, 0),
        # It works again: what was the device's for certain stays so.
        ("ecc", "ready", "device_unavailable", 0, 0),
        ("device", "ready", "device_unavailable", 0, 0),
        # A shared one, by the engine's figures or by the look behind it.
        ("crowded", "ready", "device_shared", 0, 0),
        ("full", "shared", "device_shared", 0, 0),
        ("fault", "shared", "device_shared", 0, 0),
        # A sound one: the job does not fit, or a program is at fault.
        ("full", "ready", "out_of_memory", 0, 1),
        ("fault", "ready", "engine_failed", 1, 0),
        ("fail", "ready", "engine_failed", 1, 0),
        ("memory", "ready", "out_of_memory", 0, 1),
    ],
)
def test_an_attempt_pays_only_for_what_is_its_own(
    jobs: JobMaker,
    session: Session,
    gpu: Settings,
    gate: DeviceGate,
    find: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    word: str,
    outcome: str,
    lost: int,
    memory: int,
) -> None:
    # A hanging driver is given up a little sooner.
    monkeypatch.setattr(gate, "_probe", partial(gate._probe, seconds=5.0))
    job = jobs.make()
    gate.look()
    stop_after_one(monkeypatch, lambda: find(word))
    run_jobs(gpu, "here", [*SCRIPTED, how], gate=gate)
    assert end(session, job) == (State.queued, outcome, lost, memory)
    if outcome.startswith("device"):
        free = Watch(session, job).row
        assert free.available_at <= free.updated_at, "in the queue at once"


def stop_after_one(monkeypatch: pytest.MonkeyPatch, between: Callable[[], None]) -> None:
    """The first time a worker looks at its device it claims; then `between`, and the next time it stops."""
    looked = []

    def wait(self: DeviceGate, stopping: threading.Event, *_: Any) -> None:
        if looked:
            stopping.set()
        looked.append(True)
        between()

    monkeypatch.setattr(DeviceGate, "wait", wait)


def test_the_figures_and_the_phase_are_in_the_error(
    jobs: JobMaker, session: Session, gpu: Settings, gate: DeviceGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.make()
    gate.look()
    stop_after_one(monkeypatch, lambda: None)
    run_jobs(gpu, "here", [*SCRIPTED, "full"], gate=gate)
    error = session.query(JobAttempt).one().error
    assert error is not None
    assert error["message"] == "The job does not fit."
    assert error["details"] == {
        "phase": "staging",
        "total_bytes": 80 * GB,
        "free_bytes": 0,
        "reserved_bytes": 79 * GB,
        "allocated_bytes": 5 * GB,
        "others_bytes": 0,
    }


@pytest.mark.parametrize("word", ["sick", "shared", "absent", "other", "crash"])
def test_a_worker_claims_nothing_while_its_device_is_not_ready(
    jobs: JobMaker,
    session: Session,
    gate: DeviceGate,
    find: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    word: str,
) -> None:
    gate.look()
    find(word)
    stopping = Impatient()
    gate.wait(stopping)
    assert stopping.pauses == [2.0, 4.0, 8.0]
    assert gate.last.health is (Health.shared if word == "shared" else Health.sick)
    said = [each for each in caplog.messages if "nothing is claimed" in each]
    assert len(said) == 1, "once, and not again while it stays so"
    assert gate.name == "cuda:0", "and never the processor instead"
    find("ready")
    again = Impatient()
    gate.wait(again)
    assert again.pauses == []


def test_a_run_over_a_sick_device_leaves_the_queue_alone(
    jobs: JobMaker, session: Session, gpu: Settings, gate: DeviceGate, find: Callable[[str], None]
) -> None:
    job = jobs.make()
    find("sick")
    asked = threading.Event()
    original = gate.wait

    def wait(stopping: threading.Event, *more: Any) -> None:
        asked.set()
        threading.Timer(0.5, stopping.set).start()
        original(stopping, *more)

    gate.wait = wait  # type: ignore[method-assign]
    assert run_jobs(gpu, "here", SCRIPTED, gate=gate) == 0
    assert asked.is_set()
    assert (Watch(session, job).state, attempts(session, job)) == (State.queued, [])


def test_a_second_worker_does_not_get_the_gpu(gpu: Settings, gate: DeviceGate) -> None:
    assert gate.look().health is Health.ready
    with pytest.raises(DeviceTaken):
        DeviceGate(gpu, PROBE).look()
    stopping = Impatient()
    DeviceGate(gpu, PROBE).wait(stopping)
    assert stopping.pauses == [2.0, 4.0, 8.0]
    assert (gpu.gpu_lock_dir / f"{UUID}.lock").is_file()


def test_a_gpu_that_was_sick_at_the_start_is_locked_once_it_works(
    gpu: Settings, gate: DeviceGate, find: Callable[[str], None]
) -> None:
    find("sick")
    assert gate.look().health is Health.sick
    DeviceLock(gpu.gpu_lock_dir, UUID).close()
    find("ready")
    assert gate.look().health is Health.ready
    with pytest.raises(DeviceTaken):
        DeviceLock(gpu.gpu_lock_dir, UUID)


def test_a_gpu_that_cannot_be_locked_is_not_used_and_the_setting_is_named(gpu: Settings, gate: DeviceGate) -> None:
    gpu.gpu_lock_dir.write_text("a file where a folder should be")
    for _ in range(2):
        finding = gate.look()
        assert (finding.health, gate.is_open) == (Health.sick, False)
        assert "SECATEUR_GPU_LOCK_DIR" in finding.said
    gpu.gpu_lock_dir.unlink()
    assert gate.look().health is Health.ready


@pytest.mark.parametrize(("word", "name"), [("absent", "cpu"), ("ready", "cuda:0"), ("shared", "cuda:0")])
def test_auto_is_settled_once(
    gpu: Settings, find: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, word: str, name: str
) -> None:
    monkeypatch.setattr(device_gate, "torch_cuda", lambda: "13.0")
    auto = DeviceGate(gpu.model_copy(update={"device": "auto"}), PROBE)
    with pytest.raises(RuntimeError):
        auto.name  # noqa: B018
    find("sick")
    assert auto.look().health is Health.sick, "a GPU that fails is no reason for the processor"
    find(word)
    auto.look()
    find("absent" if name != "cpu" else "ready")
    assert auto.look().health is (Health.ready if name == "cpu" else Health.sick)
    assert auto.name == name


def test_auto_with_a_torch_for_processors_is_the_processor_and_says_so(
    gpu: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device_gate, "torch_cuda", lambda: None)
    with caplog.at_level(logging.WARNING):
        auto = DeviceGate(gpu.model_copy(update={"device": "auto"}), "no.such.module")
        assert auto.look().health is Health.ready
    assert auto.name == "cpu"
    assert any("jobs are run on the processor" in each for each in caplog.messages)


@pytest.mark.parametrize("reason", sorted(set(Reason) - device_gate.DOUBTFUL))
def test_what_no_device_brings_about_is_not_looked_into(gpu: Settings, reason: Reason) -> None:
    failure = Failure(reason)
    assert DeviceGate(gpu.model_copy(update={"device": "cpu"})).settle(failure) is failure
    known = DeviceGate(gpu, "no.such.module")
    known._name = "cuda:0"
    assert known.settle(failure) is failure


def test_several_gpus_are_one_workers_and_the_sick_one_is_named(
    gpu: Settings, find: Callable[[str], None], tmp_path: Path
) -> None:
    gate = DeviceGate(gpu.model_copy(update={"device": "cuda:0,1"}), PROBE)
    assert gate.look().health is Health.ready
    assert (gate.name, gate.uuid) == ("cuda:0,1", f"{UUID},{SECOND}")
    for uuid in (UUID, SECOND):
        with pytest.raises(DeviceTaken):
            DeviceLock(gpu.gpu_lock_dir, uuid)
    (tmp_path / "word-cuda:1").write_text("sick")
    finding = gate.look()
    assert (finding.health, finding.said, finding.device) == (Health.sick, "cuda:1: it is sick", "cuda:1")
    settled = gate.settle(Failure(Reason.engine_failed))
    assert settled.reason is Reason.device_unavailable
    assert settled.details is not None
    assert settled.details["device"] == "cuda:1"


def test_where_one_of_several_is_taken_none_is_kept(gpu: Settings, find: Callable[[str], None]) -> None:
    with DeviceLock(gpu.gpu_lock_dir, SECOND), pytest.raises(DeviceTaken):
        DeviceGate(gpu.model_copy(update={"device": "cuda:0,1"}), PROBE).look()
    DeviceLock(gpu.gpu_lock_dir, UUID).close()
