"""The supervisor's parts, each alone."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.delivery.lease import LeaseLost, OwnerRequests
from app.delivery.object_keys import StoredFile
from app.kit.redaction import redacted
from app.settings import Settings
from app.storage import ObjectStore, StoreError
from worker.attempt.cache import Cache, CorruptObject, sweep_partial
from worker.attempt.claim_backoff import LONGEST_SECONDS, ClaimBackoff
from worker.attempt.interrupts import Interrupted, Interrupts, persist
from worker.attempt.job_log import JobLog
from worker.attempt.lease_heartbeat import LeaseHeartbeat
from worker.attempt.redaction import LINE_LENGTH, Redactor
from worker.attempt.scratch import Scratch, sweep
from worker.attempt.staging import safe_join
from worker.attempt.uploads import Uploads


def source(data: bytes) -> StoredFile:
    digest = hashlib.sha256(data).hexdigest()
    return StoredFile("file", digest, len(data), digest)


@pytest.fixture
def fill(store: ObjectStore) -> Callable[[bytes], StoredFile]:
    """Put bytes into the store under their digest."""

    def act(data: bytes) -> StoredFile:
        found = source(data)
        store.put_bytes(found.key, data)
        return found

    return act


def make_cache(store: ObjectStore, folder: Path, bound: int = 10**6) -> Cache:
    return Cache(folder, bound, store.download, time.sleep)


def test_the_cache_downloads_once(store: ObjectStore, fill: Callable[[bytes], StoredFile], tmp_path: Path) -> None:
    file = fill(b"model")
    cache = make_cache(store, tmp_path / "w")
    cache.link(file, tmp_path / "a" / "file")
    store.delete([file.key])
    cache.link(file, tmp_path / "b" / "file")
    assert (tmp_path / "b" / "file").read_bytes() == b"model"


def test_the_cache_refuses_what_is_not_the_content(store: ObjectStore, tmp_path: Path) -> None:
    file = source(b"model")
    store.put_bytes(file.key, b"another")
    with pytest.raises(CorruptObject):
        make_cache(store, tmp_path / "w").link(file, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_truncated_entry_is_fetched_anew(
    store: ObjectStore, fill: Callable[[bytes], StoredFile], tmp_path: Path
) -> None:
    file = fill(b"model")
    cache = make_cache(store, tmp_path / "w")
    cache.link(file, tmp_path / "a")
    (entry,) = (tmp_path / "w" / "cache" / "objects").glob("*/*")
    entry.unlink()
    entry.write_bytes(b"mo")
    cache.link(file, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"model"


def test_the_oldest_entries_make_room_but_not_those_in_use(
    store: ObjectStore, fill: Callable[[bytes], StoredFile], tmp_path: Path
) -> None:
    cache = make_cache(store, tmp_path / "w", bound=25)
    entries = tmp_path / "w" / "cache" / "objects"
    files = [fill(letter * 10) for letter in (b"a", b"b", b"c")]
    used, unused, newest = (tmp_path / name for name in "abc")
    for age, (file, target) in enumerate(zip(files[:2], (used, unused), strict=True)):
        cache.link(file, target)
        os.utime(entries / file.sha256[:2] / file.sha256, (age, age))
    unused.unlink()
    cache.link(files[2], newest)
    assert {path.name for path in entries.glob("*/*")} == {files[0].sha256, files[2].sha256}
    assert used.read_bytes() == b"a" * 10


def test_what_another_worker_evicts_meanwhile_is_passed_over(
    store: ObjectStore, fill: Callable[[bytes], StoredFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(store, tmp_path / "w", bound=15)
    files = [fill(letter * 10) for letter in (b"a", b"b")]
    cache.link(files[0], tmp_path / "a")
    (tmp_path / "a").unlink()
    glob = Path.glob

    def listed_and_gone(folder: Path, pattern: str) -> list[Path]:
        found = list(glob(folder, pattern))
        for path in found:
            if path.name == files[0].sha256:
                path.unlink()
        return found

    monkeypatch.setattr(Path, "glob", listed_and_gone)
    cache.link(files[1], tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"b" * 10


def test_a_download_of_a_dead_worker_goes_and_that_of_a_live_one_stays(tmp_path: Path) -> None:
    work, alive = tmp_path / "w", source(b"alive")
    swept: list[int] = []

    def download(key: str, target: Path) -> None:
        dead = target.with_name("0" * 64 if target.name[:2] != "00" else "1" * 64)
        dead.write_bytes(b"half of it")
        target.write_bytes(b"alive")
        swept.append(sweep_partial(work))
        assert not dead.exists()

    assert sweep_partial(work) == 0
    Cache(work, 10**6, download, time.sleep).link(alive, tmp_path / "file")
    assert swept == [1]
    assert (tmp_path / "file").read_bytes() == b"alive"


def test_scratch_of_a_live_process_stays_and_of_a_dead_one_goes(tmp_path: Path) -> None:
    (tmp_path / "scratch" / "job_dead-1" / "workspace").mkdir(parents=True)
    with Scratch(tmp_path, "job_live-1") as scratch:
        assert scratch.folder.stat().st_mode & 0o777 == 0o700
        assert sweep(tmp_path) == 1
        assert scratch.workspace.is_dir()
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "", "a/../../b", "nul\0"])
def test_no_path_leaves_the_workspace(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="not a relative path"):
        safe_join(tmp_path, path)


def test_a_link_is_not_uploaded(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "folder").symlink_to("/etc")
    uploads = Uploads(store, "jobs/job_x/job_x-1", tmp_path, Interrupts())
    with pytest.raises(ValueError, match="not a plain file"):
        uploads.put_block("link", 0)
    with pytest.raises(ValueError, match="outside"):
        uploads.put_block("folder/hostname", 0)


def test_the_log_is_bounded_over_all_attempts() -> None:
    book = JobLog(next_seq=8, limit=10, redact=str)
    for number in range(5):
        book.add("info", str(number))
    lines = book.take()
    assert [(line.seq, line.message) for line in lines] == [
        (8, "0"),
        (9, "1"),
        (10, "The log is full at 10 lines."),
    ]
    book.add("info", "more")
    assert book.take() == []


def test_redaction(tmp_path: Path) -> None:
    redact = Redactor({"<work>": tmp_path})
    assert redact(f"\x1b[31mopen {tmp_path}/x\x00\x1b[0m") == "open <work>/x "
    assert redact("a\nb") == "a ⏎ b"
    assert len(redact("x" * 10_000)) == LINE_LENGTH + 2
    data = {"seen": [f"{tmp_path}/x", 0.5, None], f"{tmp_path}/y": {"deep": f"in {tmp_path}"}}
    assert redacted(data, redact) == {"seen": ["<work>/x", 0.5, None], "<work>/y": {"deep": "in <work>"}}


def test_the_store_gets_several_chances(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupts = Interrupts()
    monkeypatch.setattr(interrupts, "pause", lambda seconds: None)
    failures = iter([StoreError("503"), StoreError("503")])

    def act() -> str:
        for error in failures:
            raise error
        return "done"

    assert persist(interrupts, act) == "done"


def test_an_order_ends_the_waiting() -> None:
    interrupts = Interrupts()
    threading.Timer(0.2, interrupts.cancelled.set).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        interrupts.pause(30)
    assert time.monotonic() - began < 5


class Clock(threading.Event):
    """Says how long it was waited for."""

    def wait(self, timeout: float | None = None) -> bool:
        self.waited = timeout
        return False


def test_the_wait_doubles_with_each_loss_up_to_a_bound_and_ends_with_a_success() -> None:
    backoff, clock, waits = ClaimBackoff(), Clock(), []
    for sound in [None, False, None, False, False, *[False] * 2000, True, False]:
        backoff.heed(sound, 5)
        backoff.wait(clock)
        assert clock.waited is not None
        waits.append(clock.waited)
    assert waits[:5] == pytest.approx([0, 5, 5, 10, 20], abs=1)
    assert waits[-3:] == pytest.approx([LONGEST_SECONDS, 0, 5], abs=1)


class Renewals:
    """Answers to the heartbeat, in order; the last one for ever."""

    def __init__(self, *answers: OwnerRequests | Exception) -> None:
        self._answers = list(answers)
        self.count = 0

    def __call__(self, session: Session) -> OwnerRequests:
        self.count += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def keep(
    renewals: Renewals, on_lost: Callable[[], None], on_orders: Callable[[OwnerRequests], None]
) -> LeaseHeartbeat:
    return LeaseHeartbeat(
        renewals,
        lease_seconds=1.5,
        heartbeat_seconds=0.1,
        since=time.monotonic(),
        on_lost=on_lost,
        on_orders=on_orders,
    )


DOWN = OperationalError("", {}, Exception("the database restarts"))
NOTHING = OwnerRequests(cancel=False, pause=False)


def test_a_renewal_may_fail_now_and_then(settings: Settings) -> None:
    lost, heard = threading.Event(), threading.Event()
    renewals = Renewals(DOWN, NOTHING, DOWN, DOWN, OwnerRequests(cancel=True, pause=False))
    with keep(renewals, lost.set, lambda requests: heard.set() if requests.cancel else None):
        assert heard.wait(5)
    assert not lost.is_set()


def test_a_lease_that_cannot_be_renewed_is_given_up_in_time(settings: Settings) -> None:
    lost = threading.Event()
    began = time.monotonic()
    with keep(Renewals(DOWN), lost.set, lambda _: None):
        assert lost.wait(5)
    assert time.monotonic() - began > 1.0


def test_a_lease_that_was_taken_is_given_up_at_once(settings: Settings) -> None:
    lost = threading.Event()
    with keep(Renewals(NOTHING, LeaseLost()), lost.set, lambda _: None):
        assert lost.wait(1.2)


def test_a_lease_that_its_holder_gave_up_is_not_lost(settings: Settings) -> None:
    lost = threading.Event()
    renewals = Renewals(LeaseLost())
    heartbeat = keep(renewals, lost.set, lambda _: None)
    heartbeat.let_go()
    with heartbeat:
        assert not lost.wait(0.5)
    assert renewals.count == 1
