"""Several targets in one job, by the real engine: what is stored, shown, resumed and continued.

Slow: which files a resume needs is known only once one has them from the store.
"""

from pathlib import Path

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.dispatch.housekeeping import reap_jobs
from app.history.evaluation import evaluation_of
from app.jobs.schemas import EvaluationRead
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import Job, JobBlock, JobStage
from app.tables.sensitivity import JobSensitivity
from app.tables.states import State
from tests import tiny
from tests.jobs import JobMaker
from tests.worker.attempt.test_control import digest
from tests.worker.harness import Watch, make_tiny_jobs, process, wait_until
from worker.attempt import run_jobs
from worker.attempt.engine_process import COMMAND

BLOCKS = 4
SEVERAL = {"target": 0.5, "further": [0.7, "2:4"]}
SLOW = {"name": "copal", "weight_update": "admm", "admm": {"iterations": 300}, "refine": "none"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def jobs(session: Session, store: ObjectStore, tmp_path: Path) -> JobMaker:
    model = tiny.make_tiny_llama(tmp_path / "tiny", blocks=BLOCKS, hidden=96)
    return make_tiny_jobs(session, store, model, domains=3)


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """With a lease that a busy machine does not lose by itself."""
    return {**environment, "SECATEUR_LEASE_SECONDS": "8"}


def r_of(watch: Watch) -> EvaluationRead:
    return evaluation_of(watch.session, watch.row)


def test_each_target_is_stored_shown_resumed_and_continued(
    jobs: JobMaker, session: Session, settings: Settings, environment: dict[str, str], tmp_path: Path
) -> None:
    texts, jobs.datasets = jobs.datasets, jobs.datasets[:2]
    reference = Watch(session, jobs.make(method=SLOW, sparsity=SEVERAL))
    assert run_jobs(settings, "first") == 1
    files = {file["path"]: file["sha256"] for file in (reference.row.manifest or {})["files"]}
    shard = f"model-00001-of-0000{BLOCKS + 1}.safetensors"
    models = [files[f"{folder}model/{shard}"] for folder in ("", "targets/0.7/", "targets/2-4/")]
    assert len(set(models)) == 3
    assert [path for path in files if path.endswith("README.md")] == ["model/README.md"]
    rows = r_of(reference).rows
    assert [(row.stage, row.after, row.further) for row in rows] == [
        (None, None, None),
        (0, "d0", None),
        (1, "d1", None),
        (2, "at 0.7", 0.7),
        (3, "at 2:4", "2:4"),
    ]
    assert all(None not in row.perplexity.values() for row in rows)
    assert r_of(reference).mean_perplexity == pytest.approx(sum(rows[2].perplexity.values()) / 2)  # type: ignore[arg-type]
    stages = session.query(JobStage).filter_by(job_id=reference.id).order_by(JobStage.stage)
    assert [round(stage.sparsity or 0, 2) for stage in stages] == [0.5, 0.5, 0.7, 0.5]
    scored = session.query(JobSensitivity.stage).filter_by(job_id=reference.id).distinct()
    assert {stage for (stage,) in scored} == {0, 1}, "a further target has no scores of its own"

    for further in (0, 1):
        watch = Watch(session, jobs.make(method=SLOW, sparsity=SEVERAL))
        driver = [COMMAND[0], "-m", "tests.worker.driver", *COMMAND]
        with process(driver, environment, tmp_path / "log") as worker:
            watch.wait_for_blocks((2 + further) * BLOCKS + 1)
            worker.kill()
        done = watch.blocks()
        assert done < 4 * BLOCKS, "it was disturbed in the middle"
        wait_until(lambda: reap_jobs(settings) > 0)
        session.execute(update(Job).values(available_at=func.now()))
        session.commit()
        another = settings.model_copy(update={"work_dir": tmp_path / f"another host {further}"})
        assert run_jobs(another, "second") == 1
        assert digest(watch) == digest(reference)
        again = session.query(JobBlock).filter_by(job_id=watch.id, attempt=watch.row.attempts).count()
        assert again == 4 * BLOCKS - done, "no block was solved twice"

    shared = {"further": [0.6], "further_statistics": "shared"}
    for asked, named in ((None, ["at 0.7", "at 2:4"]), (shared, ["at 0.6"])):
        with transaction() as other:
            jobs.session = other
            spec = {} if asked is None else {"sparsity": asked}
            child = Watch(session, jobs.go_on(reference.id, texts[2], **spec))
        assert run_jobs(settings, "third") == 1
        assert child.state is State.succeeded
        assert [row.after for row in r_of(child).rows] == [None, "d0", "d1", "d2", *named]
