"""A job's tasks, loaded by the harness before anything is pruned: what cannot be asked is refused at once."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from secateur.digests import file_sha256
from secateur.spec.records.tasks import AskedModel, TaskScores
from secateur.spec.tasks import HarnessTask
from worker.harness import harness_version
from worker.machine_errors import trouble_of
from worker.pruning.errors import UserError
from worker.pruning.request import PruningJob
from worker.pruning.tasks.rows import read_rows

ABSENT: Final = (
    "the lm-evaluation-harness is not installed where the job runs: leave `tasks` out, or ask the service's "
    "operator for workers with the extra `tasks`"
)
MODELS: Final[tuple[AskedModel, ...]] = ("dense", "pruned")
_METRICS: Final = [
    {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
]


@dataclass(frozen=True)
class ReadyTask:
    """number: its place in the spec. loaded: what `lm_eval.evaluator.evaluate` takes; empty with an error."""

    number: int
    asked: HarnessTask
    loaded: dict[str, Any]
    text_sha256: str | None = None
    error: str | None = None

    def scores(self, model: AskedModel, **figures: Any) -> TaskScores:
        """What is said of a model in this task."""
        return TaskScores.model_validate(
            {
                "task": self.number,
                "name": self.asked.name,
                "model": model,
                "limit": self.asked.limit,
                "harness": harness_version(),
                "text_sha256": self.text_sha256,
                **figures,
            }
        )


def ready_tasks(job: PruningJob) -> tuple[ReadyTask, ...]:
    """Those that some model has still to do.

    Raises UserError for what its owner can mend. Where the job is resumed, what this machine lacks is kept as the
    task's error instead: what other workers have pruned is not lost for it.
    """
    done = {(each.task, each.model) for each in job.resume.tasks}
    open_ = [n for n in range(len(job.tasks)) if any((n, model) not in done for model in MODELS)]
    begun = bool(job.resume.stages + job.resume.blocks)
    return tuple(_ready(job, open_, begun))


def _ready(job: PruningJob, numbers: list[int], begun: bool) -> Iterator[ReadyTask]:
    manager = None
    for number in numbers:
        task = job.tasks[number]
        try:
            if harness_version() is None:
                raise UserError("no_harness", ABSENT, "/tasks")
            if task.dataset is not None:
                yield _own_questions(job, number)
                continue
            manager = manager or _manager(job)
            yield ReadyTask(number, task, _load(manager, task, f"/tasks/{number}/name"))
        except UserError as error:
            if not begun or error.code not in ("no_harness", "task_unavailable"):
                raise
            yield ReadyTask(number, task, {}, error=error.message)


def _own_questions(job: PruningJob, number: int) -> ReadyTask:
    """A task of choices whose likelihoods are compared. Its solved questions are others of the same dataset."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    task = job.tasks[number]
    path = job.texts[task.dataset or ""].path
    rows = read_rows(path, f"/tasks/{number}/dataset")
    shots = task.few_shot or 0
    if shots >= len(rows):
        message = f"must be less than the {len(rows)} rows of the dataset, of which it takes others"
        raise UserError("invalid_spec", f"/tasks/{number}/few_shot: {message}", f"/tasks/{number}/few_shot")
    logging.getLogger("lm_eval.api.task").setLevel(logging.ERROR)  # it warns of every task that is no file
    made = ConfigurableTask(
        config={
            "task": task.name,
            "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
            "test_split": "test",
            "fewshot_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": lambda row: row["question"],
            "doc_to_choice": lambda row: row["choices"],
            "doc_to_target": lambda row: row["answer"],
            "num_fewshot": shots,
            "metric_list": _METRICS,
        }
    )
    loaded = {"tasks": {task.name: made}, "groups": {}, "group_map": {}}
    return ReadyTask(number, task, loaded, file_sha256(path))


def _manager(job: PruningJob) -> Any:
    """What knows the harness's own tasks; it reads all their files."""
    from lm_eval.tasks import TaskManager

    if job.task_data is not None:
        borrow(job.task_data)
    return TaskManager()


def borrow(data: Path) -> None:
    """Make datasets of a cache that is only read this process's own: folders of links, in which it may lock."""
    from datasets import config

    for place, _, names in os.walk(data / "datasets"):
        folder = Path(config.HF_DATASETS_CACHE) / Path(place).relative_to(data / "datasets")
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not name.endswith(".lock") and not (folder / name).exists():
                (folder / name).symlink_to(Path(place, name).resolve())


def _load(manager: Any, task: HarnessTask, field: str) -> dict[str, Any]:
    """Raises UserError for what the harness does not have, has no data of here, or asks for more than a text."""
    if task.name not in {*manager.all_subtasks, *manager.all_groups}:
        near = get_close_matches(task.name, [*manager.all_subtasks, *manager.all_groups], 3)
        hint = f"; there are {', '.join(near)}" if near else ""
        message = f"lm-eval {harness_version()} has no task or group {task.name}{hint}"
        raise UserError("unknown_task", message, field)
    try:
        loaded: dict[str, Any] = manager.load([task.name])
    except Exception as error:
        if trouble_of(error) is not None:
            raise
        said = " ".join(str(error).split())[:300] or type(error).__name__
        message = (
            f"the task {task.name} cannot be loaded here: {said}. Its data must be in the workers' cache, "
            "which their operator fills (SECATEUR_TASK_DATA); or ask questions of your own, by `dataset`"
        )
        raise UserError("task_unavailable", message, field) from error
    for each in loaded["tasks"].values():
        if getattr(each, "UNSAFE_CODE", False) or getattr(each, "MULTIMODAL", False):
            what = "runs what a model writes" if getattr(each, "UNSAFE_CODE", False) else "asks for more than text"
            raise UserError("unsupported_task", f"the task {each.task_name} {what}, which is not done here", field)
    return loaded
