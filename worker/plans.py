"""Plans on the CPU queue: the engine looks at a model's graph, in a child process without keys.

And without network, where the kernel lets it.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery import sizing
from app.lineage import stages as lineage
from app.lineage.stages import Stage
from app.lineage.warnings import foreseen
from app.settings import Settings
from app.storage import ObjectStore, open_store
from app.tables.datasets import Dataset, IntakeState
from app.tables.jobs import Job
from app.tables.models import Model, ModelState
from app.tables.plans import Plan
from app.tables.states import State
from app.workers.registry import Kind, kinds
from secateur.spec.job import dataset_pointers
from secateur.spec.records.pipe import Planned
from secateur.spec.records.plan import PlanResult
from worker.attempt.engine_process import hidden_bytes
from worker.attempt.engine_question import MODULE_BYTES, ask_engine
from worker.attempt.redaction import Redactor
from worker.attempt.staging import base_of, computed, safe_join
from worker.intake.runner import Check, Guard, scratch_folder
from worker.isolation import Limits
from worker.model_files.errors import IntakeError
from worker.model_files.safetensors_header import LENGTH_BYTES, header_end
from worker.plan_workers import for_workers

LOOK_AGAIN_SECONDS: Final = 2.0
"""A plan whose model is still being taken in comes back after so long."""
ENTRY_BYTES: Final = 80
SPARSE: Final = "already_sparse"
"""What the model's intake has read in its weights and its jobs will say again; a plan reads none."""

_log = logging.getLogger(__name__)


class TooEarly(Exception):
    """The model is not ready yet."""


def run(plan_id: str, guard: Guard, check: Check, settings: Settings) -> None:
    """Make a plan: afterwards its row is `ready` with the result, or `failed` with the user's error.

    guard, check: as in `worker.intake.run`. A plan that is gone or final is left alone. Raises TooEarly while its
    model is pending; every other exception is the system's.
    """
    with transaction() as session:
        plan = session.get(Plan, plan_id)
        if plan is None or plan.state != IntakeState.pending:
            return
        model = session.get_one(Model, plan.model_id)
        parent = session.get(Job, plan.spec["continues"]) if "continues" in plan.spec else None
        path = lineage.path_of(session, parent) if parent is not None else []
        stages = lineage.stages_of(path)
        warnings = [each.model_dump() for each in foreseen(session, path, plan.spec)]
        workers, questions = kinds(session), _questions(session, plan.spec)
        session.expunge_all()
    if model.state in (ModelState.uploading, ModelState.pending):
        raise TooEarly
    try:
        if model.state != IntakeState.ready:
            raise IntakeError("model_failed", "The model's intake has failed; see its `error`.", "/model")
        if parent is None and "continues" in plan.spec:
            raise IntakeError("job_not_found", "The job to continue was deleted.", "/continues")
        made = _make(plan.spec, stages, model.files or [], questions, workers, check, settings)
        result = for_workers(made, workers).model_dump(mode="json")
        warnings += [*result["warnings"], *(said for said in model.warnings if said["code"] == SPARSE)]
        values = {"state": IntakeState.ready, "result": result | {"warnings": warnings}}
    except IntakeError as error:
        values = {"state": IntakeState.failed, "error": error.as_json()}
    with transaction() as session:
        guard(session)
        session.execute(update(Plan).where(Plan.id == plan_id, Plan.state == IntakeState.pending).values(**values))


def estimate(job_id: str, guard: Guard, check: Check, settings: Settings) -> None:
    """Note what a queued job needs, or that nobody can say it; then workers may take it. Raises as `run` does."""
    with transaction() as session:
        job = session.get(Job, job_id)
        if job is None or job.state != State.queued or job.needs_memory_bytes is not None:
            return
        model = session.get_one(Model, job.model_id)
        parent = session.get(Job, job.continues) if job.continues is not None else None
        stages = lineage.stages_of(lineage.path_of(session, parent)) if parent is not None else []
        workers, questions = kinds(session), _questions(session, job.spec)
        session.expunge_all()
    try:
        needs = _make(job.spec, stages, model.files or [], questions, workers, check, settings).estimates.needs
    except IntakeError as error:  # the job's own attempt will say so
        _log.info("%s cannot be estimated: %s", job_id, error.code)
        needs = None
    with transaction() as session:
        guard(session)
        if (found := session.get(Job, job_id, with_for_update={"key_share": True})) is not None:
            sizing.settle(session, found, needs)


def _make(
    spec: dict[str, Any],
    stages: list[Stage],
    files: list[dict[str, Any]],
    questions: Mapping[str, str],
    workers: Sequence[Kind],
    check: Check,
    settings: Settings,
) -> PlanResult:
    store = open_store(settings)
    with scratch_folder(settings) as folder:
        workspace, model, data = folder / "workspace", folder / "model", folder / "data"
        for each in (workspace, model, data):
            each.mkdir(mode=0o700)
        headers = 0
        for file in files:
            check()
            headers += bring_outline(store, file, safe_join(model, file["path"]), check)
        request: dict[str, Any] = {
            **_asked(spec, stages),
            "dry_run": True,
            "workspace": os.fspath(workspace),
            "model": os.fspath(model),
            # The machine that plans is seldom the one that does the work.
            "device": "cpu",
            "machines": [kind.machine.model_dump(mode="json") for kind in workers],
            "threads": settings.threads,
            "hidden_bytes": hidden_bytes(settings),
        }
        for dataset, key in questions.items():
            store.download(key, data / dataset, check)
            request["texts"][dataset] = {"path": os.fspath(data / dataset), "format": "jsonl"}
        redact = Redactor({"<workspace>": workspace, "<model>": model, "<work>": settings.work_dir})
        limits = _limits(headers, settings)
        return ask_engine(request, workspace, limits, check, redact, Planned).plan


def _questions(session: Session, spec: dict[str, Any]) -> dict[str, str]:
    """Of the tasks' datasets that are there already, the keys in the store."""
    wanted = {task["dataset"] for task in spec.get("tasks", ()) if task.get("dataset")}
    there = select(Dataset.id, Dataset.object_key).where(
        Dataset.id.in_(wanted), Dataset.state == IntakeState.ready
    )
    return {id: key for id, key in session.execute(there) if key is not None}


def _limits(headers: int, settings: Settings) -> Limits:
    """It makes a module of each tensor. headers: bytes of all, of which a tensor takes ENTRY_BYTES at least."""
    memory = settings.child_memory_bytes + headers // ENTRY_BYTES * MODULE_BYTES
    return Limits.of_reader(memory, settings.child_seconds, settings.threads)


def _asked(spec: dict[str, Any], stages: list[Stage]) -> dict[str, Any]:
    """The spec's part of a request. Of texts, and of what is continued, a plan reads no file but questions."""
    earlier = [(stage.domain, stage.evaluation) for stage in stages if stage.evaluation is not None]
    datasets = {*dataset_pointers(spec), *(dataset for _, dataset in earlier)}
    request = {**computed(spec), "texts": {dataset: {"path": dataset} for dataset in datasets}}
    if stages:
        request["base"] = base_of((stage.domain for stage in stages), earlier)
    return request


def bring_outline(store: ObjectStore, file: dict[str, Any], target: Path, check: Check) -> int:
    """A model's file as far as a plan reads it: of safetensors the header, then a hole in the place of weights.
    Bytes of the header."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix != ".safetensors":
        store.download(file["key"], target, check)
        return 0
    prefix = b"".join(store.stream(file["key"], 0, LENGTH_BYTES))
    try:
        end = header_end(prefix, file["bytes"], target.name)
    except IntakeError as error:  # it was taken in once, so it is the store's fault
        raise ValueError(error.message) from None
    with target.open("wb") as output:
        for piece in store.stream(file["key"], 0, end):
            check()
            output.write(piece)
        output.truncate(file["bytes"])
    return end
