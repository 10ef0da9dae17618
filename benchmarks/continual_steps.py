"""Which stages a run has to make, each after the one that it continues, and several at a time."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

from benchmarks.child import ChildFailed
from benchmarks.continual_rows import JOINT, Row, Stage
from benchmarks.continual_stages import Stages
from worker.pruning import PruningError


@dataclass(frozen=True)
class Step:
    """One stage to make. evaluated: or only to continue."""

    stage: Stage
    evaluated: bool


@dataclass(frozen=True)
class Made:
    """A step that has ended. error: None where all went well. left: the stages of steps that have not."""

    stage: Stage
    error: str | None
    left: list[Stage]


def steps(stages: Stages, rows: list[Row]) -> list[Step]:
    """Whatever is not known yet of the rows' stages, each once and behind the one that it continues."""
    found: dict[str, Step] = {}
    for stage in (stage for row in rows for stage in stages.wanted(row)):
        if stages.is_kept(stage):
            continue
        lineage = [stage]
        while (before := lineage[0].before) is not None:
            lineage.insert(0, before)
        for each in lineage:
            step = found.setdefault(stages.name(each), Step(each, evaluated=False))
            if each is stage:
                found[stages.name(each)] = replace(step, evaluated=True)
    return list(found.values())


def make(stages: Stages, todo: list[Step]) -> Iterator[Made]:
    """Make `todo`, up to `stages.jobs` steps at a time. What continues a failed step fails with its error."""
    waiting = list(todo)
    errors: dict[str, str] = {}
    unmade = {stages.name(step.stage) for step in todo}
    if any(JOINT in step.stage.domains for step in todo):
        stages.learned(JOINT)  # a text of their own, which steps side by side would write at once
    with _Runner(stages) as runner:
        while waiting or runner.running:
            for step in list(waiting):
                before = stages.name(step.stage.before) if step.stage.before else None
                if before in errors:
                    waiting.remove(step)
                    runner.fail(step, errors[before])
                elif before not in unmade and runner.free:
                    waiting.remove(step)
                    runner.start(step)
            for step, error in runner.ended():
                name = stages.name(step.stage)
                unmade.discard(name)
                if error is not None:
                    errors[name] = error
                yield Made(step.stage, error, [each.stage for each in (*runner.running, *waiting)])


class _Runner:
    """Steps that run: one in this process, or several in others, each with threads of its own."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._pool: ProcessPoolExecutor | None = None
        self._futures: dict[Future[str | None], Step] = {}
        self._failed: list[tuple[Step, str]] = []

    def __enter__(self) -> "_Runner":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # a run that is broken off does not wait for what it has begun
            for process in multiprocessing.active_children():
                process.terminate()
        if self._pool is not None:
            self._pool.shutdown()

    @property
    def running(self) -> list[Step]:
        return [*self._futures.values(), *(step for step, _ in self._failed)]

    @property
    def free(self) -> bool:
        return len(self._futures) < self._stages.jobs

    def fail(self, step: Step, error: str) -> None:
        self._failed.append((step, error))

    def start(self, step: Step) -> None:
        future: Future[str | None] = Future()
        if self._stages.jobs == 1:
            future.set_result(attempt(self._stages, step))
        else:
            future = self._processes().submit(_attempt_apart, self._stages, step)
        self._futures[future] = step

    def ended(self) -> Iterator[tuple[Step, str | None]]:
        """At least one, unless none runs."""
        if not self._failed:
            for future in wait(self._futures, return_when=FIRST_COMPLETED).done:
                step = self._futures.pop(future)
                try:
                    yield step, future.result()
                except BrokenProcessPool:
                    self._pool = None  # the others that ran are broken, too; what follows gets new processes
                    yield step, "a process that made stages was killed"
        while self._failed:
            yield self._failed.pop()

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._stages.jobs, context, initializer=_end_when_told)
        return self._pool


def _end_when_told() -> None:
    """In a process that makes stages: SIGTERM unwinds it wherever it is, and Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def _attempt_apart(stages: Stages, step: Step) -> str | None:
    """`attempt`, in a process that ends once it has unwound: the pool's own loop would hear of it and go on."""
    try:
        return attempt(stages, step)
    except SystemExit as told:
        os._exit(int(told.code or 0))


def attempt(stages: Stages, step: Step) -> str | None:
    """Make a step; what went wrong, in words."""
    try:
        if step.evaluated:
            stages.figures(step.stage)
        else:
            stages.folder(step.stage)
    except (ChildFailed, PruningError, ValueError) as error:
        return str(error)
    return None
