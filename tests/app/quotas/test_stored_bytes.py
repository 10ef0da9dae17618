"""What a job counts for in its project's stored bytes, from its first block to its last day."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery import commits, input_digests
from app.delivery.claim import Claim, claim
from app.delivery.endings import Failure, fail
from app.delivery.lease import guard
from app.garbage.repository import drop_checkpoints
from app.jobs.retries import retry
from app.quotas import service
from app.quotas.catalogue import Quota
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import Job
from app.tables.states import Reason
from tests.jobs import JobMaker, make_jobs
from tests.records import block_result
from tests.worker.harness import SCRIPTED, Watch, make_tiny_jobs
from worker.attempt import run_jobs


@pytest.fixture
def jobs(session: Session) -> JobMaker:
    return make_jobs(session)


def take() -> Claim:
    with transaction() as session:
        taken = claim(session, "w", 60)
        assert taken is not None
        return taken


def commit(taken: Claim, block: int, size: int) -> None:
    files = [{"role": "weights", "path": f"0/{block}", "sha256": "", "bytes": size, "key": f"k{block}"}]
    with transaction() as session:
        guard(session, taken.lease)
        done = commits.Block(block_result(0, block), "d0", 1, files)
        commits.write_block(session, taken.lease, done)


def end(taken: Claim) -> None:
    with transaction() as session:
        fail(session, taken.lease, Failure(Reason.invalid_input), {})


def stored(session: Session, project: str) -> int:
    session.rollback()
    found = {each.quota: each.used for each in service.usage(session, project)}
    return found[Quota.stored_bytes] - texts(session)


def texts(session: Session) -> int:
    from app.tables.datasets import Dataset

    return sum(session.scalars(select(Dataset.bytes)).all())


def test_blocks_count_as_they_are_committed_and_once(session: Session, jobs: JobMaker) -> None:
    jobs.make()
    taken = take()
    commit(taken, 0, 100)
    assert stored(session, jobs.project) == 100
    commit(taken, 1, 30)
    commit(taken, 1, 30)  # a commit of unknown outcome is repeated
    assert stored(session, jobs.project) == 130


def test_a_checkpoint_that_is_given_up_counts_no_more(session: Session, jobs: JobMaker) -> None:
    id = jobs.make()
    taken = take()
    commit(taken, 0, 100)
    end(taken)
    assert stored(session, jobs.project) == 100
    session.get_one(Job, id).basis = {}
    session.commit()
    with transaction() as other:
        assert drop_checkpoints(other, -60) == 1
    assert stored(session, jobs.project) == 0


def test_what_a_retry_takes_over_counts_once(session: Session, jobs: JobMaker) -> None:
    id = jobs.make()
    taken = take()
    commit(taken, 0, 100)
    job = session.get_one(Job, id, populate_existing=True)
    job.basis = input_digests.current(session, job)
    session.commit()
    end(taken)
    session.rollback()
    retry(session, jobs.project, id)
    session.commit()
    commit(take(), 1, 10)
    assert stored(session, jobs.project) == 110


def test_an_artifact_counts_by_its_manifest(session: Session, settings: Settings, store: ObjectStore) -> None:
    jobs = make_tiny_jobs(session, store, None)
    watch = Watch(session, jobs.make())
    assert run_jobs(settings, "w", SCRIPTED) == 1
    job = session.get_one(Job, watch.id, populate_existing=True)
    assert job.manifest is not None
    assert job.stored_bytes == job.manifest["bytes"] > 0
