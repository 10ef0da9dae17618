"""A worker's device is looked at also while nothing is run, and operators see what was found.

Slow: a look at the device is a process.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.settings import Settings
from app.tables.outbox import OutboxMessage
from app.tables.workers import WorkerDevice
from app.workers import devices, registry
from tests.jobs import JobMaker
from tests.worker.harness import wait_until
from tests.worker.scripted_probe import UUID
from worker.attempt import DeviceGate
from worker.attempt.device_watch import DeviceWatch

pytestmark = pytest.mark.slow


@pytest.fixture
def gate(settings: Settings, find: Callable[[str], None], tmp_path: Path) -> DeviceGate:
    gpu = settings.model_copy(update={"device": "cuda:0", "gpu_lock_dir": tmp_path / "gpus"})
    return DeviceGate(gpu, "tests.worker.scripted_probe")


@pytest.fixture
def watch(settings: Settings, gate: DeviceGate) -> Iterator[DeviceWatch]:
    quick = settings.model_copy(update={"heartbeat_seconds": 0.05})
    found = DeviceWatch(quick, "w", gate, look_seconds=0.1)
    yield found
    found.stop()


def row(session: Session) -> WorkerDevice | None:
    session.rollback()
    return session.get(WorkerDevice, "w", populate_existing=True)


def health(session: Session) -> str | None:
    found = row(session)
    return found and found.health


def test_a_gpu_that_dies_while_nothing_runs_is_seen_and_seen_to_come_back(
    session: Session, gate: DeviceGate, watch: DeviceWatch, find: Callable[[str], None]
) -> None:
    gate.look()
    watch.start()
    wait_until(lambda: health(session) == "ready")
    assert devices.not_ready(session) == []
    find("sick")
    wait_until(lambda: health(session) == "sick")
    (dead,) = devices.not_ready(session)
    assert (dead.name, dead.device, dead.uuid, dead.said) == ("w", "cuda:0", UUID, "it is sick")
    since = dead.since
    find("shared")
    wait_until(lambda: health(session) == "shared")
    assert devices.not_ready(session)[0].since > since
    find("ready")
    wait_until(lambda: health(session) == "ready")
    watch.stop()
    assert row(session) is None


def test_a_gpu_that_works_again_hears_of_what_waited(
    jobs: JobMaker, session: Session, gate: DeviceGate, watch: DeviceWatch, find: Callable[[str], None]
) -> None:
    job = jobs.make()
    gate.look()
    watch.start()
    find("sick")
    wait_until(lambda: health(session) == "sick")
    session.query(OutboxMessage).delete()
    session.commit()
    find("ready")
    wait_until(lambda: health(session) == "ready")
    assert [each.hint for each in session.query(OutboxMessage)] == [job]


def test_nobody_looks_while_an_engine_is_on_the_device(
    session: Session, gate: DeviceGate, watch: DeviceWatch, find: Callable[[str], None]
) -> None:
    """Its own memory would look like another's."""
    gate.look()
    with gate.occupied():
        find("shared")
        watch.start()
        wait_until(lambda: row(session) is not None)
        first = row(session)
        assert first is not None
        seen = first.seen_at
        wait_until(lambda: (later := row(session)) is not None and later.seen_at > seen)
        assert health(session) == "ready"
    wait_until(lambda: health(session) == "shared")


def test_a_worker_that_is_gone_says_nothing_of_its_device(session: Session) -> None:
    devices.note_health(session, "w", "cuda:0", None, "sick", "x" * 5000)
    assert len(devices.not_ready(session)) == 1
    session.execute(update(WorkerDevice).values(seen_at=from_now(-600)))
    assert devices.not_ready(session) == []
    session.execute(update(WorkerDevice).values(seen_at=from_now(-2 * registry.FORGOTTEN_SECONDS)))
    assert registry.forget(session) == 1
