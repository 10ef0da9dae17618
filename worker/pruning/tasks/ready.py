"""A job's tasks, loaded by the harness before anything is pruned: what cannot be asked is refused at once."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from secateur.digests import file_sha256
from secateur.spec.records.tasks import AskedModel, TaskScores
from secateur.spec.tasks import HarnessTask
from worker.harness import harness_version
from worker.machine_errors import trouble_of
from worker.pruning.cost import task_tokens
from worker.pruning.errors import UserError
from worker.pruning.request import PruningJob
from worker.pruning.tasks.rows import read_questions

ABSENT: Final = (
    "the lm-evaluation-harness is not installed where the job runs: leave `tasks` out, or ask the service's "
    "operator for workers with the extra `tasks`"
)
CHARACTERS: Final = 4
"""Of a token, roughly."""
MODELS: Final[tuple[AskedModel, ...]] = ("dense", "pruned")
_METRICS: Final = [
    {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
]


@dataclass(frozen=True)
class ReadyTask:
    """number: its place in the spec. loaded: what `lm_eval.evaluator.evaluate` takes; empty with an error.
    tokens: that one model reads for it, roughly."""

    number: int
    asked: HarnessTask
    loaded: dict[str, Any]
    text_sha256: str | None = None
    error: str | None = None
    tokens: float = 0.0

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


def kept_scores(job: PruningJob, dtype: str, longest: int) -> list[TaskScores]:
    """Of what earlier runs have reached, what compares with what this one would: the rest is asked again.

    dtype: of forward passes. longest: tokens of an input. Without the harness nothing can be asked again.
    """
    now = {"harness": harness_version(), "dtype": dtype, "max_tokens": longest}

    def compares(scores: TaskScores) -> bool:
        same = all(getattr(scores, name) == value for name, value in now.items())
        dataset = job.tasks[scores.task].dataset
        return same and (dataset is None or scores.text_sha256 == file_sha256(job.texts[dataset].path))

    known = [each for each in job.resume.tasks if each.task < len(job.tasks)]
    return [each for each in known if now["harness"] is None or each.error is not None or compares(each)]


def ready_tasks(
    job: PruningJob,
    kept: Sequence[TaskScores],
    longest: int,
    count: Callable[[str], int],
    lack: str | None = None,
) -> tuple[ReadyTask, ...]:
    """Those that some model has still to do. kept: what some have done. longest: tokens of an input. count: the
    tokens of a text. lack: why none can be asked here.

    Raises UserError for what its owner can mend. Where the job is resumed, it is the task's error instead: what is
    pruned is not lost for it. So it is always where this worker alone has no data of a task.
    """
    done = {(each.task, each.model) for each in kept}
    open_ = [n for n in range(len(job.tasks)) if any((n, model) not in done for model in MODELS)]
    begun = bool(job.resume.stages + job.resume.blocks)
    if lack is not None:
        return tuple(ReadyTask(number, job.tasks[number], {}, error=lack) for number in open_)
    return tuple(_ready(job, open_, begun, longest, count))


def _ready(
    job: PruningJob, numbers: list[int], begun: bool, longest: int, count: Callable[[str], int]
) -> Iterator[ReadyTask]:
    manager = None
    for number in numbers:
        task = job.tasks[number]
        try:
            if harness_version() is None:
                raise UserError("no_harness", ABSENT, "/tasks")
            if task.dataset is not None:
                yield _own_questions(job, number, longest, count)
                continue
            manager = manager or _manager(job)
            loaded, tokens = _load(manager, task, f"/tasks/{number}/name")
            yield ReadyTask(number, task, loaded, tokens=tokens)
        except UserError as error:
            if not begun and error.code != "task_unavailable":
                raise
            yield ReadyTask(number, task, {}, error=error.message)


def _own_questions(job: PruningJob, number: int, longest: int, count: Callable[[str], int]) -> ReadyTask:
    """A task of choices whose likelihoods are compared. Its solved questions are others of the same dataset."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    task = job.tasks[number]
    path = job.texts[task.dataset or ""].path
    rows, shots = read_questions(job, number, longest, count), task.few_shot or 0
    quiet()
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
    tokens = _read_tokens(rows, shots, task.limit, longest)
    return ReadyTask(number, task, loaded, file_sha256(path), tokens=tokens)


def _read_tokens(rows: Sequence[dict[str, Any]], shots: int, limit: int | None, longest: int) -> float:
    """That one model reads for rows of choices, each with its question and as many solved ones."""
    whole = [len(row["question"]) + len(row["choices"][row["answer"]]) for row in rows]
    before = shots * sum(whole) / len(whole)
    return sum(
        min((before + len(row["question"]) + len(choice)) / CHARACTERS, longest)
        for row in rows[:limit]
        for choice in row["choices"]
    )


def quiet() -> None:
    """The harness warns of every task that is no file and of every input that is cut; what counts is told once."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def _manager(job: PruningJob) -> Any:
    """What knows the harness's own tasks; it reads all their files."""
    from lm_eval.tasks import TaskManager

    quiet()
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


def check_tasks(job: PruningJob, longest: int, count: Callable[[str], int]) -> list[float]:
    """The tokens that one model reads for each task, as far as that can be told without their data: for a plan.

    Questions of one's own are read where their file is there, and names looked up where the harness is. Raises
    UserError.
    """
    found = [task_tokens(task) for task in job.tasks]
    named = []
    for number, task in enumerate(job.tasks):
        if task.dataset is None:
            named.append(number)
        elif job.texts[task.dataset].path.is_file():
            rows = read_questions(job, number, longest, count)
            found[number] = _read_tokens(rows, task.few_shot or 0, task.limit, longest)
    if named and harness_version() is not None:
        manager = _manager(job)
        for number in named:
            name = job.tasks[number].name
            _check_name(manager, name, f"/tasks/{number}/name")
            found[number] *= _subtasks(manager.task_index, name)
    return found


def _subtasks(index: dict[str, Any], member: Any) -> int:
    """How many tasks a name of the harness's index stands for, or what a group's file has in place of one."""
    if isinstance(member, dict):
        member = member.get("task") or member.get("group")
    entry = index.get(member) if isinstance(member, str) else None
    if entry is not None and entry.kind.name in ("GROUP", "TAG"):
        member = list(entry.tags) if entry.kind.name == "TAG" else entry.cfg["task"]
    return sum(_subtasks(index, each) for each in member) if isinstance(member, list) else 1


def _check_name(manager: Any, name: str, field: str) -> None:
    known = [*manager.all_subtasks, *manager.all_groups]
    if name not in known:
        near = get_close_matches(name, known, 3)
        hint = f"; there are {', '.join(near)}" if near else ""
        raise UserError("unknown_task", f"lm-eval {harness_version()} has no task or group {name}{hint}", field)


def _load(manager: Any, task: HarnessTask, field: str) -> tuple[dict[str, Any], float]:
    """What `ReadyTask` has of it, and the tokens that one model reads.

    Raises UserError for what the harness does not have, has no data of here, or asks for more than a text."""
    _check_name(manager, task.name, field)
    try:
        loaded: dict[str, Any] = manager.load([task.name])
        rows = [(each, len(each.eval_docs)) for each in loaded["tasks"].values()]
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
    return loaded, sum(task_tokens(task, rows=count, shots=each.get_config("num_fewshot")) for each, count in rows)
