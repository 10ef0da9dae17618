"""A worker with a full disk claims nothing, and its cache gives way first."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app.settings import Settings
from app.storage import disk
from app.tables.jobs import Job
from app.tables.tasks import Task, TaskKind
from app.tasks import service
from tests.jobs import make_jobs, make_model
from worker.attempt import disk_room, run_jobs
from worker.attempt.disk_room import has_room
from worker.task_runner import run_tasks


class Disk:
    """A disk whose free bytes a test says; what lies in the cache is not free."""

    def __init__(self, folder: Path, free: int) -> None:
        self.folder, self.free, self.asked = folder, free, threading.Event()

    def usage(self, _: object) -> "Disk":
        self.asked.set()
        cached = sum(path.stat().st_size for path in self.folder.rglob("cache/objects/*/*"))
        return Disk(self.folder, self.free - cached)

    total = 1000


@pytest.fixture
def full(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """With a reserve of 50 bytes, of which 10 are free."""
    found = Disk(settings.work_dir, 10)
    monkeypatch.setattr(disk.shutil, "disk_usage", found.usage)
    monkeypatch.setattr(disk_room, "LOOK_SECONDS", 0.05)
    return found


def cached(settings: Settings, name: str, size: int) -> Path:
    path = settings.work_dir / "cache" / "objects" / name[:2] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (settings.work_dir / "cache" / "locks").mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def test_the_cache_gives_way_before_a_worker_waits(settings: Settings, full: Disk) -> None:
    full.free = 100
    kept, old = cached(settings, "aaa", 30), cached(settings, "bbb", 40)
    (settings.work_dir / "in_use").hardlink_to(kept)
    assert has_room(settings)
    assert kept.exists()
    assert not old.exists()


def test_nothing_is_claimed_until_there_is_room(session: Session, settings: Settings, full: Disk) -> None:
    jobs = make_jobs(session)
    id = jobs.make()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_jobs, settings, "w", ["false"])
        assert full.asked.wait(60)
        full.asked.clear()
        assert full.asked.wait(60), "it looks again"
        assert session.get_one(Job, id, populate_existing=True).attempts == 0
        session.rollback()
        full.free = 900
        running.result(60)
    assert session.get_one(Job, id, populate_existing=True).attempts > 0


def test_what_makes_room_goes_on(session: Session, settings: Settings, full: Disk) -> None:
    jobs = make_jobs(session)
    model = make_model(session, jobs.project, state="pending")
    intake = service.submit(session, jobs.project, TaskKind.model_intake, model).id
    service.order_sweep(session, "job_gone")
    session.commit()
    assert run_tasks(settings, "w") == 1
    session.rollback()
    assert session.get_one(Task, intake, populate_existing=True).state == "queued"


def test_a_full_disk_of_the_store_costs_no_cache(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies on another disk makes no room there."""
    other = tmp_path / "other"
    other.mkdir()
    changed = settings.model_copy(update={"store_url": other.as_uri()})
    kept = cached(changed, "aaa", 30)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: Disk(other, 10 if path == other else 500))
    assert not has_room(changed)
    assert kept.exists()
