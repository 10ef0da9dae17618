"""The story of one job: evaluate the dense model; for each domain prune block by block, then evaluate; report."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.spec.job import Domain
from worker.pruning.allocation.allocate import Allocated, allocate, comparison_group
from worker.pruning.calibration.copal_sums import check_reading
from worker.pruning.calibration.texts import text_digest
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.vocabulary import check_ids, tokens_beyond_rows
from worker.pruning.calibration.windows import CalibrationWindows, calibration_windows
from worker.pruning.continuation import check_holdings, settle_dtype
from worker.pruning.cost import block_work, planned_work, stage_work, token_work
from worker.pruning.evaluation.losses import TestSet, precision
from worker.pruning.evaluation.perplexity import test_set
from worker.pruning.evaluation.r_matrix import RMatrix
from worker.pruning.events import Observer, StageResult
from worker.pruning.model import graph as graphs
from worker.pruning.model.block_runner import BATCH_TOKENS, BlockRunner, batches
from worker.pruning.model.checkpoint import Checkpoint, read_file
from worker.pruning.model.graph import Block
from worker.pruning.model.inspection import inspect
from worker.pruning.plan import check_lengths, check_prefix, skipped
from worker.pruning.prune_block import BlockPruner
from worker.pruning.report.records import History, read_history
from worker.pruning.report.report import REPORT, Finished, final_report, stage_figures
from worker.pruning.report.warnings import JobWarning, after_pruning, after_stage, already_sparse, before_pruning
from worker.pruning.request import PruningJob
from worker.pruning.runtime.activations import ActivationCache
from worker.pruning.runtime.numerics import pick_device, pinned, torch_settings
from worker.pruning.runtime.prefetch import read_ahead
from worker.pruning.runtime.progress import Kind, Tracker
from worker.pruning.state.atomic import write_json
from worker.pruning.state.stage_folder import StageFolder, stage_folder
from worker.pruning.targets.budget import WeightTarget, assign


@dataclass(frozen=True)
class OutputFile:
    path: str
    """Its name in the artifact."""
    local: str
    """Where it is, relative to the workspace."""


@dataclass(frozen=True)
class Output:
    files: list[OutputFile]
    """Without the sensitivities, which whoever was told of the blocks has taken."""
    summary: dict[str, Any]


def run(job: PruningJob, observer: Observer) -> Output:
    """Do the whole job in job.workspace, or what is left of it (job.resume), and say which files are its result.

    The same job, threads and device give the same bytes, interrupted or not. Raises UserError for what the user
    can mend, Stopped when the observer asks, anything else when the system is at fault.
    """
    with torch_settings(job.threads, job.numerics):
        return _Run.start(job, observer).execute()


@dataclass
class _Run:
    job: PruningJob
    observer: Observer
    source: Checkpoint
    runner: BlockRunner
    shares: dict[str, WeightTarget]
    windows: list[CalibrationWindows]
    digests: list[str]
    matrix: RMatrix
    warnings: list[JobWarning]
    tracker: Tracker
    dtype: str

    @classmethod
    def start(cls, job: PruningJob, observer: Observer) -> "_Run":
        source = Checkpoint.open(job.model)
        graph = graphs.build(job.model, source)
        check_lengths(job, graph)
        shares = assign(graph.matrices, job.sparsity)  # refuse what cannot be met before the texts are read
        check_reading(job.method, shares)
        tokenizer = Tokenizer(job.model)
        check_prefix(job, tokenizer)
        beyond = tokens_beyond_rows(graph, tokenizer)
        if job.first_stage + job.resume.stages:
            check_holdings(
                job,
                graph.blocks,
                shares,
                stage_folder(job, job.resume.stages - 1, len(graph.blocks)),
                tokenizer.prefix,
            )
        device = pick_device(job.device)
        known = {(each.row, each.domain): each.perplexity for each in job.resume.evaluations}
        dtype = settle_dtype(job, device)
        observer.check()
        learned = [(domain, f"/domains/{n}/calibration") for n, domain in enumerate(job.domains)]
        windows = [
            calibration_windows(tokenizer, job.texts[d.dataset], d.calibration, field) for d, field in learned
        ]
        observer.check()
        sets = _test_sets(job, tokenizer, dtype)
        for (_, field), own in zip(learned, windows, strict=True):
            check_ids((own.solved_on, own.held_out), graph, tokenizer, field)
        for item, (_, _, field) in zip(sets, job.evaluated, strict=True):
            check_ids((item.windows,), graph, tokenizer, field)
        digests = [text_digest(job.texts[domain.dataset]) for domain in job.domains]
        sparsity = inspect(source, graph, observer.check)
        runner = BlockRunner(graph, source, device)
        planned = planned_work(job, graph, shares, runner.vocabulary, sum(s.windows.numel() for s in sets))
        tracker = Tracker(observer, len(job.domains), len(graph.blocks), planned)
        matrix = RMatrix(runner, sets, dtype, tracker, observer, lambda: _hidden(job), known)
        warnings = already_sparse(sparsity, keep_zeros=job.sparsity.keep_zeros)
        warnings += [*beyond, *before_pruning(job, shares, windows, sets)]
        return cls(job, observer, source, runner, shares, windows, digests, matrix, warnings, tracker, dtype)

    def execute(self) -> Output:
        stages = len(self.job.domains)
        if not self.job.resume.stages + self.job.resume.blocks:  # an earlier run has said so
            self._say(self.warnings)
        self.evaluate(None)
        for stage in range(stages):
            if stage < self.job.resume.stages:
                self._skip_stage(stage)
            else:
                self._stage(stage)
        self.tracker.finish()
        return self._publish()

    def _say(self, warnings: Iterable[JobWarning]) -> None:
        for warning in warnings:
            self.observer.note(*warning.note())

    def folder(self, stage: int) -> StageFolder:
        """−1: of the job that this one goes on from."""
        return stage_folder(self.job, stage, len(self.runner.graph.blocks))

    def previous(self, stage: int) -> StageFolder | None:
        """What the stage goes on from; None for the first one of a lineage."""
        return self.folder(stage - 1) if self.job.first_stage + stage else None

    def evaluate(self, stage: int | None) -> None:
        """Fill the row of R after a stage, or of the dense model."""
        row = 0 if stage is None else self.job.first_stage + stage + 1
        if not (missing := self.matrix.missing(row)):
            return
        checkpoint = self.source
        if stage is not None:
            self.folder(stage).complete(self.source, self.runner.graph)
            checkpoint = Checkpoint.open(self.job.workspace / self.folder(stage).model)
        self.tracker.move("evaluating", stage, None if stage is None else self.job.domains[stage].name)
        self.matrix.fill(row, checkpoint, missing)

    def _skip_stage(self, stage: int) -> None:
        tokens = self.job.domains[stage].calibration.tokens
        forward, solve = stage_work(self.job, self.runner.graph, self.shares, tokens)
        self.tracker.skip(Kind.forward, forward)
        self.tracker.skip(Kind.solve, solve)
        self.evaluate(stage)

    def _stage(self, stage: int) -> None:
        began = time.monotonic()
        domain = self.job.domains[stage]
        self._prune_stage(stage)
        self.evaluate(stage)
        records = self._stage_records(stage)
        self._say(after_stage(stage, domain.name, records))
        self.observer.stage(
            StageResult(
                stage=stage,
                domain=domain.name,
                **stage_figures(records),
                calibration_tokens=domain.calibration.tokens,
                seconds=time.monotonic() - began,
            )
        )

    def _prune_stage(self, stage: int) -> None:
        domain, blocks = self.job.domains[stage], self.runner.graph.blocks
        committed = self.job.resume.blocks if stage == self.job.resume.stages else 0
        self.tracker.move("pruning", stage, domain.name)
        self.tracker.restart_clock()
        allocated = self._allocate(stage) if committed < len(blocks) else Allocated(self.shares)
        pruner = BlockPruner(
            job=self.job,
            runner=self.runner,
            source=self.source,
            shares=allocated.shares,
            survey=allocated.survey,
            prefix=self.windows[stage].prefix,
            folder=self.folder(stage),
            previous=self.previous(stage),
            hidden=_hidden(self.job),
            dtype=self.dtype,
            tracker=self.tracker,
            observer=self.observer,
        )
        with pruner.hidden:
            if committed < len(blocks):
                self._enter(pruner, domain)
            self._pass_committed(pruner, blocks[:committed])
            for block, tensors in read_ahead(pruner.read, blocks[committed:]):
                self.tracker.move("pruning", stage, domain.name, block.index)
                self.observer.block(pruner.prune(block, tensors))

    def _pass_committed(self, pruner: BlockPruner, committed: Sequence[Block]) -> None:
        """Send the hidden states through the blocks that an earlier run has written."""
        domain, folder = self.job.domains[pruner.folder.stage], pruner.folder
        for block in committed:
            forward, solve = block_work(self.job, block, self.shares, domain.calibration.tokens)
            self.tracker.skip(Kind.solve, solve)
            self.tracker.skip(Kind.forward, forward - token_work(block) * domain.calibration.tokens)
        if len(committed) == len(self.runner.graph.blocks):
            return
        for block, tensors in read_ahead(
            lambda block: read_file(folder.path(folder.shard(block.index))), committed
        ):
            self.tracker.move("pruning", folder.stage, domain.name, block.index)
            pruner.advance_through(block, tensors)

    def _allocate(self, stage: int) -> Allocated:
        """Also when a stage is resumed: the same text gives the same rates again."""
        domain, blocks = self.job.domains[stage], self.runner.graph.blocks
        previous = self.previous(stage)
        earlier = [previous.path(previous.state(block.index)) for block in blocks] if previous else []
        windows = self.windows[stage]

        def advance(block: Block, tokens: int, passes: int) -> None:
            self.observer.check()
            self.tracker.advance(Kind.forward, token_work(block) * tokens * passes)

        def note(message: str, data: dict[str, Any]) -> None:
            self.observer.note("warning", message, data)

        def store() -> ActivationCache:
            # On disk whatever its size: a survey keeps every block's inputs, and memory must not grow with blocks.
            return ActivationCache(self.job.workspace, 0)

        with precision(self.runner.device, self.dtype):
            return allocate(
                *(self.job, self.shares, self.runner, self.source, windows, domain),
                *(earlier, store, advance, note),
            )

    def _enter(self, pruner: BlockPruner, domain: Domain) -> None:
        """The stage's windows up to the first block; a batch is solved on as a whole or held out as a whole."""
        windows = self.windows[pruner.folder.stage]
        solved_on, held_out = windows.solved_on, windows.held_out
        if domain.calibration.held_out and not len(held_out):
            message = "a single calibration window: none is held out, so there are no held-out errors"
            self.observer.note("warning", message, {"domain": domain.name})
        with precision(self.runner.device, self.dtype):
            for part in (solved_on, held_out):
                for rows in batches(*part.shape):
                    pruner.hidden.append(self.runner.enter(part[rows]))
        pruner.solved_on = len(batches(*solved_on.shape))

    def _records(self) -> list[list[dict[str, Any]]]:
        """Every stage's records; the last stage's state files carry them all."""
        stages = range(len(self.job.domains))
        histories = self._histories(stages[-1])
        return [self._of_stage(histories, stage) for stage in stages]

    def _stage_records(self, stage: int) -> list[dict[str, Any]]:
        return self._of_stage(self._histories(stage), stage)

    def _histories(self, stage: int) -> list[History]:
        folder = self.folder(stage)
        return [read_history(folder.path(folder.state(b.index))) for b in self.runner.graph.blocks]

    def _of_stage(self, histories: list[History], stage: int) -> list[dict[str, Any]]:
        place = self.job.first_stage + stage
        return [dict(record) for history in histories for record in history[place]]

    def _publish(self) -> Output:
        last = self.folder(len(self.job.domains) - 1)
        files = last.complete(self.source, self.runner.graph)
        rows = [self.matrix.row(row) for row in range(len(self.job.lineage) + 1)]
        settings = pinned(self.job.threads, BATCH_TOKENS, self.runner.device, self.dtype, self.job.numerics)
        done = Finished(
            self.job,
            self.runner.graph,
            self.matrix.sets,
            rows,
            self._records(),
            self.digests,
            settings,
            self.warnings,
            skipped(self.runner.graph, self.source, self.shares),
            self.windows[-1].prefix,
            comparison_group(self.job, self.job.method, self.shares),
        )
        report, summary = final_report(done)
        self._say(after_pruning(summary))
        write_json(self.job.workspace / REPORT, report)
        output = [OutputFile(f"model/{Path(local).name}", local) for local in files]
        for block in self.runner.graph.blocks:
            local = last.state(block.index)
            output.append(OutputFile(f"state/{Path(local).name}", local))
        output.append(OutputFile(REPORT, REPORT))
        return Output(output, summary)


def _hidden(job: PruningJob) -> ActivationCache:
    return ActivationCache(job.workspace, job.hidden_bytes)


def _test_sets(job: PruningJob, tokenizer: Tokenizer, dtype: str) -> list[TestSet]:
    return [test_set(name, text, job.evaluation, tokenizer, dtype, field) for name, text, field in job.evaluated]
