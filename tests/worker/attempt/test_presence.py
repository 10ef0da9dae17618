"""A worker says what it has, keeps saying that it is there, and stops.

Slow: the machine is measured by the real engine in its child process.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app.settings import Settings
from app.tables.workers import Worker
from secateur.spec.records.machine import Machine
from tests.machines import GIB, cpu
from tests.worker.harness import wait_until
from worker.attempt import DeviceGate, device_gate
from worker.attempt import machine as machines
from worker.attempt import presence as presences
from worker.attempt.machine import machine_of
from worker.attempt.presence import Presence
from worker.device.finding import Finding, Health
from worker.model_files.errors import IntakeError

pytestmark = pytest.mark.slow


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update={"heartbeat_seconds": 0.05})


def row(session: Session) -> Worker | None:
    session.rollback()
    return session.get(Worker, "w", populate_existing=True)


def test_a_machine_is_measured_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    found = machine_of(settings)
    assert (found.device, found.threads, found.device_bytes) == ("cpu", settings.threads, 0)
    assert found.rates.upload is None
    assert min(found.rates.float32, found.rates.memory, found.rates.disk_read, found.rates.disk_write) > 1e6
    assert 0.1 < found.start_seconds < 300
    assert not list(settings.work_dir.glob("measure-*"))

    def never(*_: object) -> Machine:
        raise AssertionError("it was measured already")

    monkeypatch.setattr(machines, "_measured", never)
    changed = settings.model_copy(update={"engine_memory_bytes": 3 * GIB, "disk_reserve_bytes": 0})
    assert machine_of(changed).rates == found.rates
    assert machine_of(changed).host_bytes == 3 * GIB
    with pytest.raises(AssertionError):
        machine_of(settings.model_copy(update={"threads": settings.threads + 1}))


def test_a_damaged_measurement_is_made_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "_measured", lambda *_: cpu(8))
    machine_of(settings)
    (kept,) = (settings.work_dir / "machines").glob("*.json")
    kept.write_text(kept.read_text()[:50])
    monkeypatch.setattr(machines, "_measured", lambda *_: cpu(8, name="another"))
    assert machine_of(settings).name == "another"


def test_a_row_is_there_as_long_as_the_worker(
    session: Session, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presences, "machine_of", lambda *_: cpu(8))
    presence = Presence(quick, "w")
    presence.start()
    presence.wait()
    first = row(session)
    assert first is not None
    assert first.host_bytes == 8 * GIB
    seen = first.seen_at
    wait_until(lambda: (found := row(session)) is not None and found.seen_at > seen)
    session.query(Worker).delete()  # as a dispatcher does while the worker was cut off
    session.commit()
    wait_until(lambda: row(session) is not None)
    presence.stop()
    assert row(session) is None


@dataclass
class Sick:
    """A machine that cannot be measured at first."""

    failures: int

    def look(self, *_: object) -> Machine:
        self.failures -= 1
        if self.failures >= 0:
            raise IntakeError("time_limit", "it took too long")
        return cpu(8)


def test_a_machine_that_cannot_be_measured_keeps_no_claim_waiting(
    session: Session, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presences, "machine_of", Sick(10**9).look)
    presence = Presence(quick, "w")
    presence.start()
    presence.wait()
    assert row(session) is None
    presence.stop()


def test_it_is_measured_again_after_a_while(
    session: Session, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presences, "machine_of", Sick(2).look)
    monkeypatch.setattr(presences, "AGAIN", presences.Backoff(0.01, longest=0.01))
    presence = Presence(quick, "w")
    presence.start()
    wait_until(lambda: row(session) is not None)
    presence.stop()
    assert row(session) is None


def test_a_device_that_is_not_settled_yet_is_not_guessed(
    session: Session, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measured(settings: Settings, *_: object) -> Machine:
        asked.append(settings.device)
        return cpu(8)

    found = iter([Finding(Health.sick, "it is sick"), Finding(Health.ready, uuid="u")])
    monkeypatch.setattr(device_gate, "look_at_all", lambda *_, **__: next(found))
    gpu = quick.model_copy(update={"device": "cuda", "gpu_lock_dir": quick.work_dir / "gpus"})
    monkeypatch.setattr(presences, "machine_of", measured)
    monkeypatch.setattr(presences, "AGAIN", presences.Backoff(0.01, longest=0.01))
    presence = Presence(gpu, "w", DeviceGate(gpu))
    presence.start()
    wait_until(lambda: row(session) is not None)
    presence.stop()
    assert asked == ["cuda:0"]


def test_a_folder_that_takes_no_file_is_no_crash(quick: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    presence = Presence(quick.model_copy(update={"work_dir": tmp_path / "file" / "work"}), "w")
    presence.start()
    presence.wait()
    presence.stop()
