"""The tasks, done by the dense model and then by the pruned one. One that fails costs nothing but its figures."""

import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy
import torch

from secateur.spec.records.history import Phase
from secateur.spec.records.pipe import Note, TaskBegun, TaskResult
from secateur.spec.records.tasks import AskedModel, TaskMetric, TaskScores
from worker.machine_errors import OUT_OF_MEMORY, trouble_of
from worker.pruning.cost import task_work
from worker.pruning.errors import MACHINE, PruningError
from worker.pruning.runtime import memory
from worker.pruning.runtime.progress import Kind
from worker.pruning.state.context import PreparedRun
from worker.pruning.tasks.ready import MODELS, ReadyTask
from worker.pruning.tasks.whole_model import for_harness, load_whole

SEED: Final = 1234
"""Of the solved questions before each, and of all that a task draws; the harness's own."""
BOOTSTRAPS: Final = 1000
"""Samples of a standard error that has no formula."""
ATTEMPTS: Final = 2
"""So many may end in tasks: a job has three by default, and the last one is for the model to be published."""
ENDED: Final = "an attempt at the job ended"
"""How the error of a task begins that is left out for it."""
OVERTIME: Final = "`limits.max_runtime` left no time for it: what is left is for the model to be published"


class OutOfTime(Exception):
    """What is left of the job's time is for its publication."""


def score_tasks(run: PreparedRun) -> list[TaskScores]:
    """What the models reach in the job's tasks. What no earlier run has kept is told as it comes."""
    found = {(each.task, each.model): each for each in run.kept_scores}
    if again := len(run.job.resume.tasks) - len(found):
        run.warn(
            "what models reached in tasks before was under other settings, and is asked again", {"scores": again}
        )
    for model in MODELS:
        missing = [task for task in run.tasks if (task.number, model) not in found]
        run.tracker.skip(Kind.evaluate, sum(_work(run, n) for n in range(len(run.job.tasks))))
        run.tracker.skip(Kind.evaluate, -sum(_work(run, task.number) for task in missing))
        for scores in _done_by(run, model, missing):
            found[scores.task, model] = scores
            if scores.error is None:
                run.observer.tell(Note(level="info", message=_words(scores)))
            run.observer.tell(TaskResult(**scores.model_dump()))
    return [found[n, model] for n in range(len(run.job.tasks)) for model in MODELS]


def _work(run: PreparedRun, number: int) -> float:
    return task_work(run.runner.graph, run.runner.vocabulary, run.task_tokens[number])


def _done_by(run: PreparedRun, model: AskedModel, tasks: Sequence[ReadyTask]) -> Iterator[TaskScores]:
    """Each as it is done. The model is loaded for those that can be asked.

    What is about to be done is told: what kills the engine then is found by whoever tries again.
    """
    reasons = {task.number: task.error or _broken(run, task, model) for task in tasks}
    yield from (task.scores(model, error=reasons[task.number]) for task in tasks if reasons[task.number])
    sound = [task for task in tasks if not reasons[task.number]]
    if not sound:
        return
    run.tracker.move(Phase.evaluating, None, None)
    run.tracker.restart_clock()
    folder = run.job.model if model == "dense" else _pruned(run)
    meter = _Meter(run)
    run.observer.tell(TaskBegun(task=sound[0].number, model=model))
    try:
        whole = load_whole(type(run.runner.graph.model), folder, run.device, run.dtype)
        asked = for_harness(whole, folder, run.longest_input, meter.hear)
    except Exception as error:
        said = _reason(error)
        yield from (task.scores(model, error=said) for task in sound)
        return
    for task in sound:
        run.observer.tell(TaskBegun(task=task.number, model=model))
        meter.begin(_work(run, task.number))
        try:
            meter.hear(0)
            asked.truncated = 0
            figures = _ask(asked, task) | {"truncated": asked.truncated}
        except Exception as error:
            figures = {"error": _reason(error)}
        meter.end()
        yield task.scores(model, max_tokens=run.longest_input, dtype=run.dtype, **figures)
    del whole, asked
    memory.trim()
    if run.device.type == "cuda":
        torch.cuda.empty_cache()


def _broken(run: PreparedRun, task: ReadyTask, model: AskedModel) -> str | None:
    """Why the task is left out: an attempt ended in it (where the dense model's did, the pruned one is not asked),
    or enough of them in others, which may all have died of the model's size."""
    for each in run.job.resume.broken:
        if each.task == task.number and each.model in ("dense", model):
            return f"{ENDED} while the {each.model} model did it, so it is left out: {each.why}"
    told = {each.task for each in run.kept_scores if (each.error or "").startswith(ENDED)}
    if len(told | {each.task for each in run.job.resume.broken}) >= ATTEMPTS:
        return f"{ATTEMPTS} attempts at the job ended in tasks, so no more are done"
    return None


def _pruned(run: PreparedRun) -> Path:
    """The folder of the model after the last domain's stage."""
    folder = run.folder_of(len(run.job.domains) - 1)
    folder.complete(run.source, run.runner.graph)
    return folder.path(folder.model)


class _Meter:
    """Progress by the tokens that a model has read, as far as a task was counted for."""

    def __init__(self, run: PreparedRun) -> None:
        self._run = run
        self._by_token = task_work(run.runner.graph, run.runner.vocabulary, 1)
        self._left = 0.0

    def begin(self, work: float) -> None:
        self._left = work

    def hear(self, tokens: int) -> None:
        """Raises Stopped when the observer asks, and OutOfTime."""
        done = min(tokens * self._by_token, self._left)
        self._left -= done
        self._run.tracker.advance(Kind.evaluate, done)
        if time.monotonic() > self._run.tasks_until:
            raise OutOfTime(OVERTIME)

    def end(self) -> None:
        self._run.tracker.skip(Kind.evaluate, self._left)
        self._left = 0.0


def _ask(asked: Any, task: ReadyTask) -> dict[str, Any]:
    """Figures of one task, as `TaskScores` has them."""
    from lm_eval.evaluator import evaluate

    os.environ["DISABLE_MULTIPROC"] = "1"  # or it samples in as many processes as there are cores
    random.seed(SEED)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)
    for each in task.loaded["tasks"].values():
        if task.asked.few_shot is not None and each.get_config("num_fewshot") != 0:
            each.set_config(key="num_fewshot", value=task.asked.few_shot)
        elif each.get_config("num_fewshot") is None:
            each.set_config(key="num_fewshot", value=0)
        each.set_fewshot_seed(seed=SEED)
    found = evaluate(
        lm=asked,
        task_dict=task.loaded,
        limit=task.asked.limit,
        bootstrap_iters=BOOTSTRAPS,
        log_samples=False,
        confirm_run_unsafe_code=False,
    )
    return _figures(found, task)


def _figures(found: Any, task: ReadyTask) -> dict[str, Any]:
    name = task.asked.name
    metrics = list(_metrics(found["results"].get(name, {}), found["higher_is_better"].get(name, {})))
    if not metrics:
        return {"error": "the harness has no finite figure of it; of a group, name its tasks"}
    shots = {found["n-shot"].get(each) for each in task.loaded["tasks"]}
    version = found["versions"].get(name)
    return {
        "metrics": metrics,
        "rows": sum(each["effective"] for each in found["n-samples"].values()),
        "few_shot": shots.pop() if len(shots) == 1 else None,
        "version": str(version) if task.asked.dataset is None and version is not None else None,
    }


def _metrics(result: dict[str, Any], better: dict[str, Any]) -> Iterator[TaskMetric]:
    """From `acc,none` and `acc_stderr,none`, and so on."""
    for key, value in result.items():
        name, comma, filter = key.partition(",")
        if not comma or name.endswith("_stderr") or (known := _finite(value)) is None:
            continue
        yield TaskMetric(
            name=name,
            filter=filter,
            value=known,
            stderr=_finite(result.get(f"{name}_stderr,{filter}")),
            higher_is_better=better.get(name),
        )


def _finite(value: Any) -> float | None:
    """A number of whatever kind; the harness says "N/A" where it has none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _reason(error: Exception) -> str:
    """Why a task has no figures. Raises the error where the job is to stop, or the machine is at fault."""
    if isinstance(error, OutOfTime):
        return str(error)
    trouble = trouble_of(error)
    if trouble in OUT_OF_MEMORY:
        return "the memory did not hold the whole model with its longest input"
    fault = isinstance(error, OSError) and error.errno in MACHINE
    if isinstance(error, PruningError) or trouble is not None or fault:
        raise error
    said = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _words(scores: TaskScores) -> str:
    shown = ", ".join(f"{each.name} {each.value:.4f}" for each in scores.metrics)
    return f"the task {scores.name}, {scores.rows} rows, by the {scores.model} model: {shown}"
