"""The object store refuses, is slow, hangs, cuts uploads or is full: it is waited for, or the attempt says why.

Slow: an upload that is cut needs a store that cuts it.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.local.ports import LOOPBACK
from app.local.servers import SeaweedServer
from app.settings import Settings
from app.storage import ObjectStore, open_store
from app.tables.jobs import Job, JobAttempt
from app.tables.states import State
from tests.app.storage.test_store import s3_settings
from tests.chaos.checks import half_written
from tests.chaos.proxy import Cut, Link, Proxy, proxy_to
from tests.jobs import JobMaker
from tests.worker.harness import SCRIPTED, Watch, driver, make_tiny_jobs, wait_until
from worker.attempt import run_jobs

pytestmark = pytest.mark.slow

REFUSAL = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """With a lease that a busy machine does not lose by itself, and without a reserve of disk, so that a full one
    meets an attempt and not the claim before it."""
    return {**environment, "SECATEUR_LEASE_SECONDS": "8", "SECATEUR_DISK_RESERVE_BYTES": "0"}


@pytest.fixture
def proxy(seaweed: SeaweedServer) -> Iterator[Proxy]:
    with proxy_to(lambda: seaweed.port) as proxy:
        yield proxy


@dataclass
class House:
    """A queued job whose files are on an S3 server behind a proxy."""

    watch: Watch
    settings: Settings
    store: ObjectStore
    """Without the proxy."""
    digest: str
    """Of the same job's manifest when nothing happens to it."""

    def run(self, **changes: object) -> None:
        """What a worker does when it is notified."""
        run_jobs(self.settings.model_copy(update=changes), "here", SCRIPTED)

    def attempts(self) -> list[str | None]:
        session = self.watch.session
        session.rollback()
        rows = session.query(JobAttempt).filter_by(job_id=self.watch.id).order_by(JobAttempt.number)
        return [row.outcome for row in rows.populate_existing()]

    def check_success(self) -> None:
        row = self.watch.row
        assert row.state == State.succeeded
        assert row.manifest is not None
        assert row.manifest["digest"] == self.digest
        assert half_written(self.store) == []
        assert all(self.store.head(file["key"]) == file["bytes"] for file in row.manifest["files"])

    def check_failed_attempt(self, message: str) -> None:
        row = self.watch.row
        assert (row.state, row.manifest) == (State.queued, None)
        assert half_written(self.store) == []
        error = row.id and self.watch.session.get_one(JobAttempt, (row.id, row.attempts)).error
        assert error is not None
        assert (error["code"], error["cause"], error["message"]) == ("store_failed", "system", message)

    def let_it_start_again(self) -> None:
        self.watch.session.execute(update(Job).values(available_at=func.now()))
        self.watch.session.commit()


@pytest.fixture
def house(session: Session, settings: Settings, seaweed: SeaweedServer, proxy: Proxy, tmp_path: Path) -> House:
    direct = s3_settings(settings, seaweed, tmp_path.name)
    through = s3_settings(settings, seaweed, tmp_path.name, s3_endpoint=f"http://{LOOPBACK}:{proxy.port}")
    store = open_store(direct)
    jobs: JobMaker = make_tiny_jobs(session, store, None)
    undisturbed = Watch(session, jobs.make())
    run_jobs(direct, "here", SCRIPTED)
    assert undisturbed.row.manifest is not None
    return House(Watch(session, jobs.make()), through, store, undisturbed.row.manifest["digest"])


@dataclass
class Uploads:
    """Lets something happen to the first requests that upload."""

    happens: Callable[[Link, bytes], bytes]
    times: int
    count: int = 0
    _hit: set[Link] = field(default_factory=set)

    def __call__(self, link: Link, data: bytes) -> bytes:
        if data.startswith(b"PUT ") and self.count < self.times:
            self.count += 1
            return self.happens(link, data)
        return data


def refuse(link: Link, _data: bytes) -> bytes:
    link.client.sendall(REFUSAL)
    raise Cut


def cut(link: Link, data: bytes) -> bytes:
    """The last bytes of the upload never arrive."""
    link.server.sendall(data[:-5])
    raise Cut


def hang(link: Link, _data: bytes) -> bytes:
    link.swallowing = True
    return b""


@pytest.mark.parametrize(("happens", "times"), [(refuse, 14), (cut, 14), (hang, 2)])
def test_uploads_that_fail_are_sent_again(
    house: House,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    happens: Callable[[Link, bytes], bytes],
    times: int,
) -> None:
    """More often than the client library itself tries."""
    monkeypatch.setattr("app.storage.store.REQUEST_SECONDS", 2)
    uploads = Uploads(happens, times)
    with proxy.misbehaving(upward=uploads):
        house.run()
    assert uploads.count == times
    house.check_success()
    assert house.attempts() == ["succeeded"]


def test_a_slow_store_is_only_slow(house: House, proxy: Proxy) -> None:
    never = Event()

    def dawdle(_link: Link, data: bytes) -> bytes:
        never.wait(0.05)
        return data

    with proxy.misbehaving(upward=dawdle, downward=dawdle):
        house.run()
    house.check_success()


def test_a_store_that_stays_away_fails_the_attempt_and_not_the_job(house: House, proxy: Proxy) -> None:
    with proxy.misbehaving(upward=refuse):
        house.run(store_retry_seconds=0.1)
    house.check_failed_attempt("The object store could not be read or written.")
    house.let_it_start_again()
    house.run()
    house.check_success()
    assert house.attempts() == ["store_failed", "succeeded"]


@pytest.fixture
def small_disk(environment: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte for the folder store."""
    folder = tmp_path / "store"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Use up all of its space; the file that does it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


@pytest.fixture
def local(small_disk: Path, session: Session, settings: Settings, store: ObjectStore) -> House:
    """The same with the folder store on a small disk."""
    jobs = make_tiny_jobs(session, store, None)
    undisturbed = Watch(session, jobs.make())
    run_jobs(settings, "here", SCRIPTED)
    assert undisturbed.row.manifest is not None
    return House(Watch(session, jobs.make()), settings, store, undisturbed.row.manifest["digest"])


def test_a_full_disk_is_named_and_leaves_nothing(local: House, small_disk: Path) -> None:
    before = files_of(small_disk)
    filler = fill(small_disk)
    local.run(store_retry_seconds=0.1)
    local.check_failed_attempt("The object store has no space left.")
    filler.unlink()
    assert files_of(small_disk) == before, "no half of a file stays"
    local.let_it_start_again()
    local.run()
    local.check_success()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_disk_that_gets_room_in_time_is_waited_for(
    local: House, small_disk: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    with driver(environment, tmp_path / "log", "slow"):
        local.watch.wait_for_blocks(1)
        filler = fill(small_disk)
        wait_until(lambda: b"no space left; trying again" in (tmp_path / "log").read_bytes())
        filler.unlink()
        local.watch.wait_for_end()
    local.check_success()
    assert local.attempts() == ["succeeded"]
