"""The story of one job: evaluate the dense model; for each domain prune block by block, then evaluate; report."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.pruning import skeleton as skeletons
from worker.pruning.allocation.stage import Allocated, allocate
from worker.pruning.background import read_ahead
from worker.pruning.blocks import BATCH_TOKENS, Shell, batches
from worker.pruning.budget import Share, assign
from worker.pruning.calibration import Tokenizer, calibration_windows, split, text_digest
from worker.pruning.checkpoint import Checkpoint, read_file
from worker.pruning.evaluate import TestSet, native_dtype, precision, window_losses
from worker.pruning.files import write_json
from worker.pruning.folder import StageFolder
from worker.pruning.hidden import HiddenStates
from worker.pruning.observer import Observer, StageResult
from worker.pruning.perplexity import evaluation, test_set
from worker.pruning.planning import check_lengths
from worker.pruning.progress import Kind, Tracker
from worker.pruning.prune import BlockPruner
from worker.pruning.report import REPORT, Finished, final_report, stage_figures
from worker.pruning.sensing import check_reading
from worker.pruning.settings import pick_device, pinned, torch_settings
from worker.pruning.skeleton import Block
from worker.pruning.spec import Domain, PruningJob
from worker.pruning.stasis import MESSAGE as STASIS
from worker.pruning.stasis import stasis
from worker.pruning.statistics import read_document
from worker.pruning.work import block_work, head_work, planned_work, stage_work, token_work


@dataclass(frozen=True)
class OutputFile:
    path: str
    """Its name in the artifact."""
    local: str
    """Where it is, relative to the workspace."""


@dataclass(frozen=True)
class Output:
    files: list[OutputFile]
    summary: dict[str, Any]


def run(job: PruningJob, observer: Observer) -> Output:
    """Do the whole job in job.workspace, or what is left of it (job.resume), and say which files are its result.

    The same job, threads and device give the same bytes, interrupted or not. Raises UserError for what the user
    can mend, Stopped when the observer asks, anything else when the system is at fault.
    """
    with torch_settings(job.threads):
        return _Run.start(job, observer).execute()


@dataclass
class _Run:
    job: PruningJob
    observer: Observer
    source: Checkpoint
    shell: Shell
    shares: dict[str, Share]
    windows: list[Tensor]
    digests: list[str]
    sets: list[TestSet]
    tracker: Tracker
    dtype: str
    known: dict[tuple[int, str], float] = field(default_factory=dict)
    """(row of R, domain) → perplexity."""

    @classmethod
    def start(cls, job: PruningJob, observer: Observer) -> "_Run":
        source = Checkpoint.open(job.model)
        skeleton = skeletons.build(job.model, source)
        check_lengths(job, skeleton)
        shares = assign(skeleton.matrices, job.sparsity)  # refuse what cannot be met before the texts are read
        check_reading(job.method, shares)
        tokenizer = Tokenizer(job.model)
        device = pick_device(job.device)
        known = {(int(e["row"]), str(e["domain"])): float(e["perplexity"]) for e in job.resume.evaluations}
        dtype = _resumed_dtype(job) or native_dtype(device)
        observer.check()
        windows = [calibration_windows(tokenizer, domain.calibration) for domain in job.domains]
        observer.check()
        sets = _test_sets(job, tokenizer, dtype)
        digests = [text_digest(domain.calibration.text) for domain in job.domains]
        shell = Shell(skeleton, source, device)
        planned = planned_work(job, skeleton, shares, shell.vocabulary, sum(s.windows.numel() for s in sets))
        tracker = Tracker(observer, len(job.domains), len(skeleton.blocks), planned)
        return cls(job, observer, source, shell, shares, windows, digests, sets, tracker, dtype, known)

    def execute(self) -> Output:
        stages = len(self.job.domains)
        self.evaluate(0)
        for stage in range(stages):
            if stage < self.job.resume.stages:
                self._skip_stage(stage)
            else:
                self._stage(stage)
        self.tracker.finish()
        return self._publish()

    def folder(self, stage: int) -> StageFolder:
        return StageFolder(self.job.workspace, stage, len(self.shell.skeleton.blocks))

    def evaluate(self, row: int) -> None:
        """Fill one row of R, leaving out what an earlier run has reported."""
        missing = [item for item in self.sets if (row, item.domain) not in self.known]
        for item in self.sets:
            if (row, item.domain) in self.known:
                self.tracker.skip(Kind.evaluate, self._row_work(item.windows.numel()))
        if not missing:
            return
        checkpoint = self.source
        if row:
            self.folder(row - 1).complete(self.source, self.shell.skeleton)
            checkpoint = Checkpoint.open(self.job.workspace / self.folder(row - 1).model)
        stage = row - 1 if row else None
        domain = self.job.domains[row - 1].name if row else None
        self.tracker.move("evaluating", stage, domain)
        self.tracker.restart_clock()
        for item, own in zip(missing, self._losses(checkpoint, missing), strict=True):
            self._report_evaluation(row, item, own)

    def _losses(self, checkpoint: Checkpoint, sets: list[TestSet]) -> list[list[float]]:
        """Of every set's windows; sets with the same windows are computed once."""
        distinct: list[TestSet] = []
        places = []
        for item in sets:
            same = [n for n, other in enumerate(distinct) if torch.equal(other.windows, item.windows)]
            places += same or [len(distinct)]
            distinct += [] if same else [item]
            self.tracker.skip(Kind.evaluate, self._row_work(item.windows.numel()) if same else 0.0)
        with self._hidden() as hidden:
            losses = window_losses(self.shell, checkpoint, distinct, self.dtype, hidden, self._advance_evaluation)
        return [losses[place] for place in places]

    def _advance_evaluation(self, block: int, tokens: int) -> None:
        self.tracker.where.block = block
        skeleton = self.shell.skeleton
        head = block == len(skeleton.blocks)
        work = head_work(skeleton, self.shell.vocabulary) if head else token_work(skeleton.blocks[block])
        self.tracker.advance(Kind.evaluate, work * tokens)

    def _row_work(self, tokens: int) -> float:
        skeleton = self.shell.skeleton
        return tokens * (sum(map(token_work, skeleton.blocks)) + head_work(skeleton, self.shell.vocabulary))

    def _report_evaluation(self, row: int, item: TestSet, losses: list[float]) -> None:
        result = evaluation(row, item, losses)
        self.known[row, item.domain] = result.perplexity
        self.observer.evaluation(result)

    def _skip_stage(self, stage: int) -> None:
        tokens = self.job.domains[stage].calibration.tokens
        forward, solve = stage_work(self.job, self.shell.skeleton, self.shares, tokens)
        self.tracker.skip(Kind.forward, forward)
        self.tracker.skip(Kind.solve, solve)
        self.evaluate(stage + 1)

    def _stage(self, stage: int) -> None:
        began = time.monotonic()
        domain = self.job.domains[stage]
        self._prune_stage(stage)
        self.evaluate(stage + 1)
        figures = stage_figures(self._stage_records(stage))
        if (still := stasis(stage, domain.name, figures["mask_overlap"])) is not None:
            self.observer.note("warning", STASIS, still)
        self.observer.stage(
            StageResult(
                stage=stage,
                domain=domain.name,
                **figures,
                calibration_tokens=domain.calibration.tokens,
                seconds=time.monotonic() - began,
            )
        )

    def _prune_stage(self, stage: int) -> None:
        domain, blocks = self.job.domains[stage], self.shell.skeleton.blocks
        committed = self.job.resume.blocks if stage == self.job.resume.stages else 0
        self.tracker.move("pruning", stage, domain.name)
        self.tracker.restart_clock()
        allocated = self._allocate(stage) if committed < len(blocks) else Allocated(self.shares)
        pruner = BlockPruner(
            job=self.job,
            shell=self.shell,
            source=self.source,
            shares=allocated.shares,
            survey=allocated.survey,
            folder=self.folder(stage),
            previous=self.folder(stage - 1) if stage else None,
            hidden=self._hidden(),
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

    def _hidden(self) -> HiddenStates:
        return HiddenStates(self.job.workspace, self.job.hidden_bytes)

    def _pass_committed(self, pruner: BlockPruner, committed: Sequence[Block]) -> None:
        """Send the hidden states through the blocks that an earlier run has written."""
        domain, folder = self.job.domains[pruner.folder.stage], pruner.folder
        for block in committed:
            forward, solve = block_work(self.job, block, self.shares, domain.calibration.tokens)
            self.tracker.skip(Kind.solve, solve)
            self.tracker.skip(Kind.forward, forward - token_work(block) * domain.calibration.tokens)
        if len(committed) == len(self.shell.skeleton.blocks):
            return
        for block, tensors in read_ahead(
            lambda block: read_file(folder.path(folder.shard(block.index))), committed
        ):
            self.tracker.move("pruning", folder.stage, domain.name, block.index)
            pruner.advance_through(block, tensors)

    def _allocate(self, stage: int) -> Allocated:
        """Also when a stage is resumed: the same text gives the same rates again."""
        domain, blocks = self.job.domains[stage], self.shell.skeleton.blocks
        previous = self.folder(stage - 1)
        earlier = [previous.path(previous.state(block.index)) for block in blocks] if stage else []
        solved_on, _ = split(self.windows[stage], domain.calibration.held_out)

        def advance(block: Block, tokens: int, passes: int) -> None:
            self.observer.check()
            self.tracker.advance(Kind.forward, token_work(block) * tokens * passes)

        def note(message: str, data: dict[str, Any]) -> None:
            self.observer.note("warning", message, data)

        def store() -> HiddenStates:
            # On disk whatever its size: a survey keeps every block's inputs, and memory must not grow with blocks.
            return HiddenStates(self.job.workspace, 0)

        with precision(self.shell.device, self.dtype):
            return allocate(
                *(self.job, self.shares, self.shell, self.source, solved_on, earlier, store, advance, note)
            )

    def _enter(self, pruner: BlockPruner, domain: Domain) -> None:
        """The stage's windows up to the first block; a batch is solved on as a whole or held out as a whole."""
        windows = self.windows[pruner.folder.stage]
        solved_on, held_out = split(windows, domain.calibration.held_out)
        if domain.calibration.held_out and not len(held_out):
            message = "a single calibration window: none is held out, so there are no held-out errors"
            self.observer.note("warning", message, {"domain": domain.name})
        with precision(self.shell.device, self.dtype):
            for part in (solved_on, held_out):
                for rows in batches(*part.shape):
                    pruner.hidden.append(self.shell.enter(part[rows]))
        pruner.solved_on = len(batches(*solved_on.shape))

    def _records(self) -> list[list[dict[str, Any]]]:
        """Every stage's records; the last stage's state files carry them all."""
        last = self.folder(len(self.job.domains) - 1)
        documents = [read_document(last.path(last.state(b.index))) for b in self.shell.skeleton.blocks]
        stages = range(len(self.job.domains))
        return [[record for document in documents for record in document["history"][stage]] for stage in stages]

    def _stage_records(self, stage: int) -> list[dict[str, Any]]:
        folder = self.folder(stage)
        documents = [read_document(folder.path(folder.state(b.index))) for b in self.shell.skeleton.blocks]
        return [record for document in documents for record in document["history"][stage]]

    def _publish(self) -> Output:
        last = self.folder(len(self.job.domains) - 1)
        files = last.complete(self.source, self.shell.skeleton)
        rows = [
            [self.known.get((row, item.domain)) for item in self.sets] for row in range(len(self.job.domains) + 1)
        ]
        settings = pinned(self.job.threads, BATCH_TOKENS, self.shell.device, self.dtype)
        records = self._records()
        done = Finished(self.job, self.shell.skeleton, self.sets, rows, records, self.digests, settings)
        report, summary = final_report(done)
        write_json(self.job.workspace / REPORT, report)
        output = [OutputFile(f"model/{Path(local).name}", local) for local in files]
        for block in self.shell.skeleton.blocks:
            local = last.state(block.index)
            output.append(OutputFile(f"state/{Path(local).name}", local))
        output.append(OutputFile(REPORT, REPORT))
        return Output(output, summary)


def _resumed_dtype(job: PruningJob) -> str | None:
    """The dtype that the job began with: no R and no model must mix two, even after a move to other hardware."""
    for reported in job.resume.evaluations:
        dtype = (reported.get("protocol") or {}).get("dtype")
        if dtype is not None:
            return str(dtype)
    stage = job.resume.stages if job.resume.blocks else job.resume.stages - 1
    if stage < 0:
        return None
    folder = StageFolder(job.workspace, stage, 0)
    dtype = read_document(folder.path(folder.state(0))).get("forward_dtype")
    return None if dtype is None else str(dtype)


def _test_sets(job: PruningJob, tokenizer: Tokenizer, dtype: str) -> list[TestSet]:
    return [
        test_set(domain.name, domain.evaluation, job.evaluation, tokenizer, dtype, f"{domain.field}/evaluation")
        for domain in job.domains
        if domain.evaluation is not None
    ]
