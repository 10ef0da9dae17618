"""Nothing that is needed goes, and nothing that is not needed stays: on a folder and on an S3 server."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.db.engine import make_engine, transaction
from app.delivery import checkpoint, commits, input_digests
from app.delivery.claim import Claim, claim
from app.delivery.lease import guard
from app.delivery.object_keys import attempt_folder
from app.dispatch.housekeeping import order_sweep, reap_jobs
from app.garbage.repository import drop_checkpoints
from app.garbage.sweep import Sweep
from app.jobs import control, retries
from app.local.servers import SeaweedServer
from app.models.repository import objects_folder
from app.settings import Settings
from app.storage import ObjectStore, open_store
from app.tables.datasets import Dataset
from app.tables.jobs import Job, JobBlock, JobEvent
from app.tables.models import Model
from app.tables.tasks import Task
from app.tasks import service as tasks
from app.tasks.service import WHOLE_STORE
from tests.app.storage.test_store import s3_settings
from tests.jobs import JobMaker, make_jobs
from tests.records import block_result, stage_result
from tests.worker.harness import SCRIPTED, Watch, driver, make_tiny_jobs, wait_until
from worker.attempt import run_jobs
from worker.task_runner import run_tasks


@pytest.fixture(params=["folder", "s3"])
def anywhere(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Settings:
    """Settings with each kind of store, empty; sweeps have no patience."""
    impatient = settings.model_copy(update={"garbage_seconds": 0.0})
    if request.param == "folder":
        return impatient
    seaweed: SeaweedServer = request.getfixturevalue("seaweed")
    return s3_settings(impatient, seaweed, tmp_path.name)


@pytest.fixture
def objects(anywhere: Settings) -> ObjectStore:
    return open_store(anywhere)


@pytest.fixture
def jobs(session: Session) -> JobMaker:
    return make_jobs(session, domains=2)


def sweep(store: ObjectStore, age: float = 0) -> int:
    return Sweep(store, lambda: None, timedelta(seconds=age)).everything()


def take() -> Claim:
    with transaction() as session:
        taken = claim(session, "w", 60)
        assert taken is not None
        return taken


def upload(store: ObjectStore, taken: Claim, part: object, name: str) -> str:
    key = f"{attempt_folder(taken.root, taken.lease.job_id, taken.lease.fence)}/{part}/{name}"
    store.put_bytes(key, name.encode())
    return key


def commit(taken: Claim, stage: int, block: int, *keys: str, solved: str | None = None) -> None:
    """solved: as it was before the whole model was tuned."""
    roles = dict.fromkeys(keys, "weights") | ({} if solved is None else {solved: "solved"})
    files = [{"role": r, "path": f"{stage}/{k}", "sha256": "", "bytes": 1, "key": k} for k, r in roles.items()]
    done = commits.Block(block_result(stage, block), f"d{stage}", 1, files)
    with transaction() as session:
        guard(session, taken.lease)
        commits.write_block(session, taken.lease, done)


def finish_stage(taken: Claim, stage: int) -> None:
    with transaction() as session:
        guard(session, taken.lease)
        commits.write_stage(session, taken.lease, stage_result(stage, f"d{stage}"))


def keys(store: ObjectStore) -> set[str]:
    return {key for key, _ in store.list("jobs")}


def test_only_old_objects_go(jobs: JobMaker, objects: ObjectStore) -> None:
    objects.put_bytes("jobs/job_gone/job_gone-1/0/x", b"x")
    assert sweep(objects, age=3600) == 0
    assert sweep(objects) == 1
    assert keys(objects) == set()


def test_what_a_live_attempt_uploads_stays_until_nobody_can_commit_it(
    jobs: JobMaker, objects: ObjectStore, session: Session
) -> None:
    jobs.make()
    first = take()
    committed = upload(objects, first, 0, "committed")
    upload(objects, first, 0, "waiting")
    output = upload(objects, first, "output", "report")
    commit(first, 0, 0, committed)
    assert sweep(objects) == 0
    finish_stage(first, 0)
    assert sweep(objects) == 1, "the stage is over, so nothing more of it will be committed"
    assert keys(objects) == {committed, output}
    session.execute(update(Job).values(state="queued"))
    session.commit()
    assert sweep(objects) == 1, "the attempt is over"
    assert keys(objects) == {committed}


def test_a_stage_takes_the_one_before_its_predecessor_away(jobs: JobMaker, objects: ObjectStore) -> None:
    jobs.make()
    taken = take()
    early, late = upload(objects, taken, 0, "early"), upload(objects, taken, 1, "late")
    commit(taken, 0, 0, early)
    finish_stage(taken, 0)
    commit(taken, 1, 0, late)
    assert sweep(objects) == 0
    finish_stage(taken, 1)
    assert sweep(objects) == 1
    assert keys(objects) == {late}


def test_checkpoints_of_failed_jobs_have_their_time(
    jobs: JobMaker, objects: ObjectStore, anywhere: Settings, session: Session
) -> None:
    job = jobs.make()
    taken = take()
    key = upload(objects, taken, 0, "block")
    commit(taken, 0, 0, key)
    session.execute(update(Job).values(state="failed", finished_at=from_now(-6 * 86_400), basis={"spec": ""}))
    session.commit()
    order(WHOLE_STORE)
    assert run_tasks(anywhere, "here") == 1
    assert keys(objects) == {key}
    session.execute(update(Job).values(finished_at=from_now(-8 * 86_400)))
    session.commit()
    order(WHOLE_STORE)
    assert run_tasks(anywhere, "here") == 1
    assert keys(objects) == set()
    assert session.query(JobBlock).one().files == []
    assert session.query(JobEvent).filter_by(job_id=job, type="checkpoint_dropped").count() == 1


def order(subject: str) -> None:
    with transaction() as session:
        tasks.order_sweep(session, subject)


def test_a_deleted_job_takes_its_objects_along(
    jobs: JobMaker, objects: ObjectStore, anywhere: Settings, session: Session
) -> None:
    kept, gone = jobs.make(), jobs.make()
    for _ in range(2):
        taken = take()
        commit(taken, 0, 0, upload(objects, taken, 0, "block"))
        upload(objects, taken, "output", "report")
    session.execute(update(Job).where(Job.id == gone).values(state="failed"))
    session.commit()
    with transaction() as other:
        control.delete(other, jobs.project, gone)
    patient = anywhere.model_copy(update={"garbage_seconds": 86_400.0})
    assert run_tasks(patient, "here") == 1, "a deletion is not put off"
    assert {key.split("/")[1] for key in keys(objects)} == {kept}
    assert session.query(Task).one().state == "succeeded"
    if objects.folder is not None:
        assert not (objects.folder / "jobs" / gone).exists()


def test_objects_live_as_long_as_any_job_of_their_chain_needs_them(
    jobs: JobMaker, objects: ObjectStore, session: Session
) -> None:
    first = jobs.make()
    taken = take()
    key = upload(objects, taken, 0, "block")
    commit(taken, 0, 0, key)
    row = session.get_one(Job, first)
    row.state, row.basis = "failed", input_digests.current(session, row)
    session.commit()
    with transaction() as other:
        (second, _), made = retries.retry(other, jobs.project, first)
        assert made
    with transaction() as other:
        control.delete(other, jobs.project, first)
    assert sweep(objects) == 0
    assert keys(objects) == {key}
    retried = take()
    assert (retried.lease.job_id, retried.root) == (second.id, first)
    mine = upload(objects, retried, 0, "mine")
    assert sweep(objects) == 0
    session.execute(update(Job).values(state="cancelled"))
    session.commit()
    assert sweep(objects) == 1
    assert mine not in keys(objects)
    with transaction() as other:
        control.delete(other, jobs.project, second.id)
    assert sweep(objects) == 1
    assert keys(objects) == set()


def test_texts_and_model_files_go_with_their_last_owner(
    jobs: JobMaker, objects: ObjectStore, session: Session
) -> None:
    folder = f"projects/{jobs.project}"
    used, unused = f"{folder}/datasets/{'0' * 64}", f"{folder}/datasets/{'1' * 64}"
    part, lost = (f"{objects_folder(jobs.project)}/{name}" for name in ("part", "lost"))
    for key in (used, unused, part, lost):
        objects.put_bytes(key, b"x")
    session.query(Dataset).filter_by(id=jobs.datasets[0]).update({"object_key": used})
    session.query(Model).update({"files": [{"path": "a", "sha256": "", "bytes": 1, "key": part}]})
    session.commit()
    assert sweep(objects) == 2
    assert {key for key, _ in objects.list(folder)} == {used, part}


def test_no_model_file_goes_without_the_lock(jobs: JobMaker, objects: ObjectStore, settings: Settings) -> None:
    """The server ends the sweep's session, as it does with one that is silent for too long."""
    kill = text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    engine = make_engine(settings)

    class Slow(ObjectStore):
        def delete(self, keys: Iterable[str]) -> None:
            super().delete(keys)
            with engine.begin() as connection:
                connection.execute(kill)

    folder = objects_folder(jobs.project)
    for name in ("a", "b", "c"):
        objects.put_bytes(f"{folder}/{name}", b"x")
    with pytest.raises(OperationalError):
        Sweep(Slow(**vars(objects)), lambda: None, timedelta(0)).models(jobs.project)
    assert len(list(objects.list(folder))) == 2
    engine.dispose()


def test_broken_off_uploads_go(jobs: JobMaker, objects: ObjectStore) -> None:
    """Those of a folder; a bucket has its own rule for them."""
    left = int(objects.folder is not None)
    if objects.folder is not None:
        (objects.folder / "jobs").mkdir()
        (objects.folder / "jobs" / "x#1").write_bytes(b"half")
    past, future = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-1, 1))
    assert objects.remove_leftovers(past, lambda: None) == 0
    assert objects.remove_leftovers(future, lambda: None) == left
    assert objects.remove_leftovers(future, lambda: None) == 0


def test_one_sweep_at_a_time_and_again_after_its_time(session: Session, settings: Settings) -> None:
    patient = settings.model_copy(update={"sweep_seconds": 60.0})
    assert order_sweep(patient)
    assert not order_sweep(patient)
    order(WHOLE_STORE)
    assert session.query(Task).count() == 1
    assert run_tasks(patient, "here") == 1
    assert not order_sweep(patient)
    session.execute(update(Task).values(created_at=from_now(-61)))
    session.commit()
    assert order_sweep(patient)


@contextmanager
def sweeping(act: Callable[[], object]) -> Iterator[None]:
    """Sweeps as fast as they go, beside what happens inside."""
    done = threading.Event()
    errors: list[Exception] = []

    def repeat() -> None:
        try:
            while not done.is_set():
                act()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert errors == []


@pytest.mark.slow
def test_a_job_that_is_swept_all_the_time_loses_nothing(
    session: Session, store: ObjectStore, settings: Settings, environment: dict[str, str], tmp_path: Path
) -> None:
    """Without any age: what protects a running job is who may still write where, not luck."""
    jobs = make_tiny_jobs(session, store, None)
    reference = Watch(session, jobs.make())
    assert run_jobs(settings, "here", SCRIPTED) == 1
    watch = Watch(session, jobs.make())
    with sweeping(lambda: sweep_jobs(store)):
        with driver(environment, tmp_path / "log", "slow") as worker:
            watch.wait_for_blocks(3)
            worker.kill()
        session.execute(update(Job).where(Job.id == watch.id).values(available_at=from_now(0)))
        session.commit()
        wait_until(lambda: reap_jobs(settings) > 0)
        assert run_jobs(settings, "here", SCRIPTED) == 1
    row = watch.row
    assert row.result is not None
    assert reference.row.result is not None
    assert row.result["manifest_digest"] == reference.row.result["manifest_digest"]
    assert row.manifest is not None
    named = {file["key"] for file in row.manifest["files"]} | {row.manifest["key"]}
    assert all(store.head(key) is not None for key in named)
    with transaction() as other:
        assert drop_checkpoints(other, 0) == 2
    sweep_jobs(store)
    left = {key for key, _ in store.list(f"jobs/{watch.id}")}
    assert left == named, "and no more than the artifact is left"


def sweep_jobs(store: ObjectStore) -> None:
    pass_ = Sweep(store, lambda: None, timedelta(0))
    for root in list(store.folders("jobs")):
        pass_.chain(root)


def test_what_a_model_was_tuned_from_stays_until_its_stage_is_finished(
    jobs: JobMaker, objects: ObjectStore, session: Session
) -> None:
    """No later attempt fetches it then, and no project pays for it."""
    job = jobs.make()
    taken = take()
    weights, solved = ([upload(objects, taken, 0, f"{name}{n}") for n in range(2)] for name in ("now", "before"))
    for block in range(2):
        commit(taken, 0, block, weights[block], solved=solved[block])

    def held() -> tuple[set[str], int]:
        session.rollback()
        found = {file.key for file in checkpoint.load(session, job).files}
        return found, session.get_one(Job, job, populate_existing=True).stored_bytes

    assert held() == ({*weights, *solved}, 4)
    sweep(objects)
    assert keys(objects) == {*weights, *solved}
    finish_stage(taken, 0)
    assert held() == (set(weights), 2)
    sweep(objects)
    assert keys(objects) == set(weights)
