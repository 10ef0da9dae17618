"""One job of a worker with two GPUs, which are pretended: from the claim to the artifact, the bytes of one GPU.

Slow: that a worker hands both to its engine, and that nothing of an artifact tells how many there were, only a
whole attempt shows.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sqlalchemy.orm import Session

from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import JobLog
from app.tables.states import State
from tests import tiny
from tests.worker.harness import Watch, make_tiny_jobs
from worker.attempt import DeviceGate, run_jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

METHOD = {"name": "admm", "admm": {"iterations": 2, "mask_steps": 1}}
UNIFORM = {"target": 0.5, "allocation": "uniform"}
PRETEND = (sys.executable, "-P", str(Path(__file__).parents[1] / "pretend_engine.py"))


def test_a_job_on_two_gpus_ends_with_the_bytes_of_one(
    session: Session, store: ObjectStore, settings: Settings, find: Callable[[str], None], tmp_path: Path
) -> None:
    model = tiny.make_tiny_llama(tmp_path / "tiny", dtype=torch.bfloat16)
    jobs = make_tiny_jobs(session, store, model, domains=1)
    (one, alone), (two, both) = (
        _run(device, Watch(session, jobs.make(method=METHOD, sparsity=UNIFORM)), settings)
        for device in ("cuda:0", "cuda:0,1")
    )
    assert two == one
    assert alone[1] == 0
    assert both[1] > both[0] / 10


def _run(device: str, watch: Watch, settings: Settings) -> tuple[dict[str, str], list[int]]:
    """The job on a worker with that device: path → sha256 of its artifact, and what was launched on each GPU."""
    own = settings.model_copy(update={"device": device, "gpu_lock_dir": settings.work_dir / device})
    assert run_jobs(own, "here", PRETEND, gate=DeviceGate(own, "tests.worker.scripted_probe")) == 1
    assert watch.state is State.succeeded
    manifest = watch.row.manifest
    assert manifest is not None
    lines = watch.session.query(JobLog).filter_by(job_id=watch.id).order_by(JobLog.seq)
    (said,) = [line.message for line in lines if line.message.startswith("launched")]
    return {file["path"]: file["sha256"] for file in manifest["files"]}, [int(each) for each in said.split()[1:]]
