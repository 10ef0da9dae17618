"""Plan tasks: what is fetched, and what becomes of plans that cannot be made.

Slow: a plan is made by the task that reads the model's files from the store.
"""

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery import sizing
from app.delivery.claim import claim
from app.jobs import control
from app.plans import service as plans
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.datasets import Dataset
from app.tables.jobs import Job, JobDataset
from app.tables.models import Model
from app.tables.plans import Plan
from app.tables.tasks import PLANNING, Task
from app.tasks import service as tasks
from app.workers import registry
from secateur.spec.job import JobContinue, JobCreate
from tests.app.lineage.lineages import publish
from tests.jobs import CALIBRATION, SPEC, make_dataset, make_model, make_project
from tests.machines import cpu, gpu
from tests.tiny import make_tiny_llama
from tests.worker.harness import make_tiny_jobs
from worker.attempt.engine_process import EngineProcess
from worker.plans import TooEarly, bring_outline, run
from worker.task_runner import run_tasks

pytestmark = pytest.mark.slow


def ask(session: Session, folder: Path | None = None, store: ObjectStore | None = None, **model: Any) -> str:
    """A pending plan's id."""
    project = make_project(session)
    model_id = make_model(session, project, folder, store, **model)
    domain = {"name": "a", "dataset": make_dataset(session, project), "calibration": CALIBRATION}
    body = JobCreate.model_validate_json(json.dumps({**SPEC, "model": model_id, "domains": [domain]}))
    id = plans.ask(session, project, body).id
    session.commit()
    return id


def read(session: Session, id: str) -> Plan:
    session.rollback()
    return session.get_one(Plan, id, populate_existing=True)


def unguarded(session: Session) -> None: ...


def test_only_headers_are_fetched(store: ObjectStore, tmp_path: Path) -> None:
    source = make_tiny_llama(tmp_path / "tiny") / "model.safetensors"
    store.put_file("key", source)
    target = tmp_path / "outline" / "model.safetensors"
    bring_outline(store, {"key": "key", "bytes": source.stat().st_size}, target, lambda: None)
    assert target.stat().st_size == source.stat().st_size
    assert target.stat().st_blocks * 512 < source.stat().st_size / 4
    dense = load_file(source)
    with safe_open(target, framework="pt") as reader:
        assert {name: tuple(reader.get_slice(name).get_shape()) for name in reader.keys()} == {  # noqa: SIM118
            name: tuple(tensor.shape) for name, tensor in dense.items()
        }


def test_a_plan_waits_for_its_model_without_spending_attempts(session: Session, settings: Settings) -> None:
    id = ask(session, state="pending")
    with pytest.raises(TooEarly):
        run(id, unguarded, lambda: None, settings)
    assert run_tasks(settings, "w") == 1
    session.rollback()
    task = session.query(Task).one()
    assert (task.state, task.attempts) == ("queued", 0)
    assert task.available_at > task.created_at
    assert read(session, id).state == "pending"


def test_a_plan_fails_with_its_model(session: Session, settings: Settings) -> None:
    id = ask(session)
    session.query(Model).update({"state": "failed"})
    session.commit()
    assert run_tasks(settings, "w") == 1
    plan = read(session, id)
    assert plan.error is not None
    assert (plan.state, plan.error["code"], plan.error["field"]) == ("failed", "model_failed", "/model")
    assert session.query(Task).one().state == "failed"


def test_a_model_that_the_engine_refuses_fails_the_plan_without_paths(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    folder = make_tiny_llama(tmp_path / "tiny")
    (folder / "config.json").write_text('{"model_type": "nothing"}')
    id = ask(session, folder, store)
    run(id, unguarded, lambda: None, settings)
    plan = read(session, id)
    assert plan.error is not None
    assert (plan.state, plan.error["code"], plan.error["field"]) == ("failed", "unsupported_model", "/model")
    assert str(settings.work_dir) not in plan.error["message"]


def test_a_plan_of_a_continuation_counts_what_is_continued(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    jobs = make_tiny_jobs(session, store, make_tiny_llama(tmp_path / "tiny"))
    parent = jobs.make()
    publish(session, parent)
    session.query(JobDataset).filter_by(dataset_id=jobs.evaluation).delete()
    session.query(Dataset).filter_by(id=jobs.evaluation).delete()
    session.commit()
    domain = {"name": "new", "dataset": jobs.datasets[0], "calibration": CALIBRATION}
    body = JobContinue.model_validate({"continues": parent, "domains": [domain]})
    made, orphan = (plans.ask(session, jobs.project, body).id for _ in range(2))
    session.commit()
    run(made, unguarded, lambda: None, settings)
    plan = read(session, made)
    assert (plan.state, plan.error) == ("ready", None)
    assert plan.result is not None
    assert plan.result["estimates"]["disk_bytes"]["parts"]["base"] > 0
    (warning,) = plan.result["warnings"]
    assert (warning["code"], warning["data"]) == ("evaluation_lost", {"domains": ["d0", "d1"]})
    with transaction() as other:
        control.delete(other, jobs.project, parent)
    run(orphan, unguarded, lambda: None, settings)
    refused = read(session, orphan).error
    assert refused is not None
    assert (refused["code"], refused["field"]) == ("job_not_found", "/continues")


def test_bad_questions_fail_the_plan_by_their_line(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    project = make_project(session)
    model = make_model(session, project, make_tiny_llama(tmp_path / "tiny"), store)
    rows = [json.dumps({"question": "q", "choices": ["a", "b"], "answer": answer}) for answer in (0, 2)]
    own = make_dataset(session, project, "\n".join(rows), store, format="jsonl")
    session.get_one(Dataset, own).source = "upload"
    domain = {"name": "a", "dataset": make_dataset(session, project), "calibration": CALIBRATION}
    asked = {**SPEC, "model": model, "domains": [domain], "tasks": [{"name": "own", "dataset": own}]}
    id = plans.ask(session, project, JobCreate.model_validate_json(json.dumps(asked))).id
    session.commit()
    run(id, unguarded, lambda: None, settings)
    error = read(session, id).error
    assert error is not None
    assert (error["code"], error["field"]) == ("invalid_questions", "/tasks/0/dataset")
    assert error["message"].startswith("line 2 ")


def test_a_plan_is_for_the_workers_that_there_are(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    id = ask(session, make_tiny_llama(tmp_path / "tiny"), store)
    for name, machine in {"a": gpu(80), "b": gpu(80), "c": cpu(8)}.items():
        registry.register(session, name, machine)
    session.commit()
    run(id, unguarded, lambda: None, settings)
    plan = read(session, id)
    assert plan.result is not None
    estimates = plan.result["estimates"]
    assert [(each["kind"], each["workers"], each["fits"]) for each in estimates["workers"]] == [
        (gpu(80).kind, 2, True),
        (cpu(8).kind, 1, True),
    ]
    assert estimates["kind"] in (gpu(80).kind, cpu(8).kind)


def test_what_no_worker_holds_is_refused_by_its_largest_part(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    id = ask(session, make_tiny_llama(tmp_path / "tiny"), store)
    registry.register(session, "small", gpu(0.5))
    session.commit()
    run(id, unguarded, lambda: None, settings)
    plan = read(session, id)
    assert (plan.state, plan.result) == ("failed", None)
    assert plan.error is not None
    assert (plan.error["code"], plan.error["field"]) == ("fits_no_worker", "/model")
    for words in ("GiB of GPU memory", gpu(0.5).kind, "0.5 GiB", "choose a smaller model"):
        assert words in plan.error["message"]


def test_a_job_that_may_be_too_large_is_estimated_and_then_claimed_by_whom_it_fits(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    jobs = make_tiny_jobs(session, store, make_tiny_llama(tmp_path / "tiny"))
    job = jobs.make()
    session.query(Model).update({"bytes": 2**40})
    for name, machine in {"small": gpu(0.5), "large": gpu(80)}.items():
        registry.register(session, name, machine)
    session.commit()
    for _ in range(2):
        assert claim(session, "small", 60) is None
        session.commit()
    assert run_tasks(settings, "w", PLANNING) == 1
    session.rollback()
    needs = sizing.needs_of(session.get_one(Job, job, populate_existing=True))
    assert needs is not None
    assert 2**29 < needs.device_bytes < 2**32
    assert claim(session, "small", 60) is None
    taken = claim(session, "large", 60)
    assert taken is not None
    assert taken.machine == gpu(80).model_dump(mode="json")
    session.commit()


def test_a_job_whose_model_no_engine_takes_is_let_go(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    folder = make_tiny_llama(tmp_path / "tiny")
    (folder / "config.json").write_text('{"model_type": "nothing"}')
    job = make_tiny_jobs(session, store, folder).make()
    session.query(Model).update({"bytes": 2**40})
    registry.register(session, "small", gpu(24))
    session.commit()
    assert claim(session, "small", 60) is None
    session.commit()
    assert run_tasks(settings, "w", PLANNING) == 1
    session.rollback()
    found = session.get_one(Job, job, populate_existing=True)
    assert (found.state, sizing.needs_of(found)) == ("queued", None)
    assert claim(session, "small", 60) is not None
    session.commit()


def test_a_lost_lease_writes_nothing(session: Session, settings: Settings) -> None:
    class Lost(Exception):
        pass

    def lost(_: Session) -> None:
        raise Lost

    id = ask(session)
    session.query(Model).update({"state": "failed"})
    session.commit()
    with pytest.raises(Lost):
        run(id, lost, lambda: None, settings)
    assert read(session, id).state == "pending"


def test_an_engine_that_is_stopped_leaves_nothing_behind(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    engines: list[int] = []

    class Noted(EngineProcess):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            engines.append(self.pid)

    def check() -> None:
        if engines:
            raise Stop

    monkeypatch.setattr("worker.attempt.engine_question.EngineProcess", Noted)
    id = ask(session, make_tiny_llama(tmp_path / "tiny"), store)
    with pytest.raises(Stop):
        run(id, unguarded, check, settings)
    assert read(session, id).state == "pending"
    assert not psutil.pid_exists(engines[0])
    assert not any((settings.work_dir / "scratch").iterdir())


def test_the_last_failure_of_ours_fails_the_plan(session: Session, settings: Settings) -> None:
    id = ask(session)
    with transaction() as other:
        claim = tasks.claim(other, "w", 60)
    assert claim is not None
    with transaction() as other:
        tasks.retry(other, claim, budget=1)
    plan = read(session, id)
    assert plan.error is not None
    assert (plan.state, plan.error["code"]) == ("failed", "internal")


def test_a_plan_counts_hidden_states_as_the_worker_would_hold_them(
    session: Session, store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    frugal = settings.model_copy(update={"hidden_bytes": 100})
    id = ask(session, make_tiny_llama(tmp_path / "tiny"), store)
    run(id, unguarded, lambda: None, frugal)
    plan = read(session, id)
    assert plan.result is not None
    assert plan.result["estimates"]["memory_bytes"]["parts"]["hidden_states"] == 100
    assert plan.result["estimates"]["disk_bytes"]["parts"]["hidden_states"] > 0
