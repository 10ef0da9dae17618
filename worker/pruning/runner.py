"""The story of one job: evaluate the dense model; for each domain, then for each further target, prune block by
block and evaluate; have both models do the job's tasks; report."""

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from secateur.digests import file_sha256
from secateur.spec.method import Mode, Refine
from secateur.spec.records.history import JobWarning, Phase
from secateur.spec.records.pipe import Output, OutputFile, StageResult
from secateur.spec.records.tasks import TaskScores
from secateur.spec.sparsity import further_folder
from worker.pruning.allocation.allocate import allocate
from worker.pruning.allocation.output_grams import OutputGrams
from worker.pruning.calibration.collect import pass_dense
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.vocabulary import check_ids, tokens_beyond_rows
from worker.pruning.calibration.windows import calibration_windows
from worker.pruning.channels.stage import as_written, with_channels
from worker.pruning.continuation import check_statistics, settle_dtype
from worker.pruning.cost import block_work, planned_work, stage_tokens, stage_work, task_tokens, token_work
from worker.pruning.estimate import device_bytes
from worker.pruning.evaluation.losses import precision
from worker.pruning.evaluation.perplexity import test_set
from worker.pruning.evaluation.r_matrix import Entries, evaluate_row, missing
from worker.pruning.fitting import check_memory, tasks_lack
from worker.pruning.model.block_runner import BlockRunner, batches
from worker.pruning.model.checkpoint import Checkpoint, read_file
from worker.pruning.model.graph import Block, build_graph
from worker.pruning.model.inspection import inspect
from worker.pruning.model.positions import longest_input
from worker.pruning.observer import Observer
from worker.pruning.plan import check_prefix, look
from worker.pruning.prune_block import advance_through, prune_block, read_block
from worker.pruning.refine.model import refine_model
from worker.pruning.report.records import read_history
from worker.pruning.report.report import REPORT, final_report, stage_figures
from worker.pruning.report.warnings import (
    after_pruning,
    after_stage,
    after_tasks,
    already_sparse,
    before_pruning,
    before_tasks,
)
from worker.pruning.request import PruningJob
from worker.pruning.runtime.behind import Behind
from worker.pruning.runtime.hidden_states import HiddenStates, Room
from worker.pruning.runtime.numerics import pick_devices, torch_settings, without_order
from worker.pruning.runtime.prefetch import read_ahead
from worker.pruning.runtime.progress import Kind, Tracker
from worker.pruning.state.atomic import write_json
from worker.pruning.state.context import PreparedRun, RunContext, StageContext, Tensors
from worker.pruning.state.stage_folder import stage_folder
from worker.pruning.subject import Subject
from worker.pruning.targets.budget import assign, follows_dense, weighs_outputs
from worker.pruning.tasks.ready import kept_scores, ready_tasks
from worker.pruning.tasks.score import score_tasks

TASKS_SHARE: Final = 0.9
"""Of the time that a job's owner has left it: what the rest is for is to publish the model."""


def run(job: PruningJob, observer: Observer, subject: Subject | None = None) -> Output:
    """Do the whole job in job.workspace, or what is left of it (job.resume), and say which files are its result.

    subject: what `plan.look` has found of the job, if it was asked; to be used once. The same job, threads and
    device give the same bytes, interrupted or not. Raises UserError for what the user
    can mend, Stopped when the observer asks, anything else when the system is at fault.
    """
    devices = pick_devices(job.device)
    with torch_settings(job.threads, job.numerics, devices[0]), Behind(observer) as behind:
        prepared = _prepare(job, behind, subject, devices)
        if not job.resume.stages + job.resume.blocks:  # else an earlier run has said so
            _say(prepared, [*prepared.warnings, *before_tasks(prepared.tasks)])
        entries = {(each.row, each.domain): each.perplexity for each in job.resume.evaluations}
        entries |= _evaluate(prepared, None, entries)
        for stage in range(len(job.stage_names)):
            began = time.monotonic()
            if done := stage < job.resume.stages:
                _skip_stage(prepared, stage)
            else:
                # In a file: a survey's, whose size is not that of the hidden states' room.
                with HiddenStates(job.workspace, devices, Room()) as last:
                    _prune_stage(prepared, stage, last)
                    _refine_stage(prepared, stage, last)
            entries |= _evaluate(prepared, stage, entries)
            if not done:
                _tell_stage(prepared, stage, time.monotonic() - began)
        scores = score_tasks(prepared) if job.tasks else []
        prepared.tracker.finish()
        return _publish(prepared, entries, scores)


def _prepare(
    job: PruningJob, behind: Behind, subject: Subject | None, devices: Sequence[torch.device]
) -> PreparedRun:
    """Read everything but weights, and refuse what cannot be done; what is quick to refuse comes first."""
    device, began = devices[0], time.monotonic()
    found = subject or look(job)
    check_memory(found, device)
    source, graph, targets = found.checkpoint, found.graph, found.shares
    tokenizer = Tokenizer(job.model)
    check_prefix(job, tokenizer)
    beyond = tokens_beyond_rows(graph, tokenizer)
    if job.first_stage + job.resume.stages:
        before = stage_folder(job, min(job.resume.stages, len(job.domains)) - 1, len(graph.blocks))
        check_statistics(job, graph.blocks, targets, before, tokenizer.prefix)
    dtype = settle_dtype(job, device)
    behind.check()
    windows = []
    for number, domain in enumerate(job.domains):
        field = f"/domains/{number}/calibration"
        windows.append(calibration_windows(tokenizer, job.texts[domain.dataset], domain.calibration, field))
        check_ids((windows[-1].solved_on, windows[-1].held_out), graph, tokenizer, field)
    behind.check()
    sets = []
    for name, text, field in job.evaluated:
        sets.append(test_set(name, text, job.evaluation, tokenizer, dtype, field))
        check_ids((sets[-1].windows,), graph, tokenizer, field)
    longest = longest_input(graph)
    kept = kept_scores(job, dtype, longest)
    tasks = ready_tasks(job, kept, longest, tokenizer.count, tasks_lack(found, device))
    known = {task.number: task.tokens for task in tasks if task.error is None}
    task_sizes = [known.get(number, task_tokens(task)) for number, task in enumerate(job.tasks)]
    behind.check()
    digests = [file_sha256(job.texts[domain.dataset].path) for domain in job.domains]
    warnings = already_sparse(inspect(source, graph, behind.check), keep_zeros=job.sparsity.keep_zeros)
    warnings += [*beyond, *before_pruning(job, targets, windows, sets)]
    room = Room.beside(device_bytes(found), devices, job.hidden_bytes)
    others = [BlockRunner(build_graph(job.model, source), source, each, dtype) for each in devices[1:]]
    runner = BlockRunner(graph, source, device, dtype, others)
    evaluated = sum(item.windows.numel() for item in sets)
    planned = planned_work(job, graph, targets, runner.vocabulary, evaluated, task_sizes)
    return PreparedRun(
        job=job,
        source=source,
        runner=runner,
        dtype=dtype,
        room=room,
        tracker=Tracker(behind, len(job.stage_names), len(graph.blocks), planned),
        behind=behind,
        targets=targets,
        windows=windows,
        digests=digests,
        sets=sets,
        warnings=warnings,
        tasks=tasks,
        kept_scores=kept,
        longest_input=longest,
        task_tokens=task_sizes,
        tasks_until=math.inf if job.seconds_left is None else began + TASKS_SHARE * job.seconds_left,
    )


def _say(context: RunContext, warnings: Iterable[JobWarning]) -> None:
    for warning in warnings:
        context.warn(warning.message, {"code": warning.code, **warning.data})


def _evaluate(prepared: PreparedRun, stage: int | None, known: Entries) -> Entries:
    """What is missing in the row of R after a stage, or of the dense model."""
    row = 0 if stage is None else prepared.job.first_stage + stage + 1
    if not (sets := missing(prepared, row, prepared.sets, known)):
        return {}
    checkpoint, domain = prepared.source, None
    if stage is not None:
        folder, domain = prepared.folder_of(stage), prepared.job.stage_names[stage]
        folder.complete(prepared.source, prepared.runner.graph)
        checkpoint = Checkpoint.open(folder.path(folder.model))
    prepared.tracker.move(Phase.evaluating, stage, domain)
    return evaluate_row(prepared, row, checkpoint, sets)


def _skip_stage(prepared: PreparedRun, stage: int) -> None:
    """Count as done what an earlier run has done."""
    forward, solve = stage_work(prepared.job, prepared.runner.graph, prepared.targets, stage)
    prepared.tracker.skip(Kind.forward, forward)
    prepared.tracker.skip(Kind.solve, solve)


def _prune_stage(prepared: PreparedRun, stage: int, last: HiddenStates) -> None:
    """Prune the blocks that are left, after passing those that an earlier run has committed. last: see
    `StageContext`."""
    job, tokens = prepared.job, stage_tokens(prepared.job, stage)
    committed = job.resume.blocks if stage == job.resume.stages else 0
    prepared.tracker.restart_clock()
    for block in prepared.blocks[:committed]:
        forward, solve = block_work(job, block, prepared.targets, stage)
        prepared.tracker.skip(Kind.solve, solve)
        passes = 1 + follows_dense(job.method, prepared.targets)
        prepared.tracker.skip(Kind.forward, forward - passes * token_work(block) * tokens)
    if committed == len(prepared.blocks):
        return
    with ExitStack() as stack:
        context = allocate(with_channels(_stage_context(prepared, stage, stack, last)))
        _enter(context)
        for block, (passed, dense) in read_ahead(partial(_as_committed, context), context.blocks[:committed]):
            context.tracker.move(Phase.pruning, stage, context.name, block.index)
            _pass_committed(context, block, passed, dense)
        for block, tensors in read_ahead(partial(read_block, context), context.blocks[committed:]):
            context.tracker.move(Phase.pruning, stage, context.name, block.index)
            prune_block(context, block, tensors)
        context.behind.finish()


def _refine_stage(prepared: PreparedRun, stage: int, last: HiddenStates) -> None:
    """Tune the stage's model as a whole, or its norms, where the job asks for it."""
    if prepared.job.method.refine in (Refine.norms, Refine.model):
        with ExitStack() as stack:
            refine_model(as_written(_stage_context(prepared, stage, stack, last)))


def _stage_context(prepared: PreparedRun, stage: int, stack: ExitStack, last: HiddenStates) -> StageContext:
    """With empty stores of hidden states, which `stack` closes."""
    job, targets = prepared.job.at_stage(stage), prepared.targets
    windows = prepared.windows[min(stage, len(prepared.windows) - 1)]
    if not job.learns(stage):
        targets = assign(prepared.runner.graph.matrices, job.sparsity)
    if not job.measures(stage):
        windows = replace(windows, solved_on=windows.solved_on[:0])
    sequential = job.method.mode is Mode.sequential and job.first_stage + stage > 0
    # What the stage before has pruned has no dense prefix, and nothing in it is solved for again.
    follows = follows_dense(job.method, targets) and not sequential
    weighs = weighs_outputs(job.method, targets) and not sequential
    tunes = job.method.refine is Refine.block
    count = 1 + follows + tunes
    stores = [stack.enter_context(prepared.hidden_states(count)) for _ in range(count)]
    return StageContext(
        job=job,
        source=prepared.source,
        runner=prepared.runner,
        dtype=prepared.dtype,
        room=prepared.room,
        tracker=prepared.tracker,
        behind=prepared.behind,
        stage=stage,
        name=prepared.job.stage_names[stage],
        windows=windows,
        targets=targets,
        hidden=stores[0],
        dense=stores[1] if follows else None,
        output_grams=stack.enter_context(OutputGrams(prepared.job.workspace)) if weighs else None,
        wanted=stores[-1] if tunes else None,
        last=last,
        behind_dense=prepared.job.behind_dense(stage),
    )


def _as_committed(context: StageContext, block: Block) -> tuple[Tensors, Tensors]:
    """A block as an earlier run has passed it: as it was written, or pruned from; and as the dense model has it
    where that is passed, too."""
    if context.behind_dense:
        return read_block(context, block), {}
    folder, pinned = context.folder, context.runner.pinned
    dense = {} if context.dense is None else context.source.read(block.tensors, pinned=pinned)
    return read_file(folder.path(folder.shard(block.index)), pinned=pinned), dense


def _pass_committed(context: StageContext, block: Block, passed: Tensors, dense: Tensors) -> None:
    if context.dense is not None and block is not context.blocks[-1]:
        context.runner.load_block(block, dense)
        pass_dense(context, block)
    if block is not context.blocks[-1]:
        context.runner.load_block(block, passed)
    advance_through(context, block)


def _enter(context: StageContext) -> None:
    """The stage's windows up to the first block; a batch is solved on as a whole or held out as a whole."""
    windows = context.windows
    if context.domain.calibration.held_out and not len(windows.held_out):
        message = "a single calibration window: none is held out, so there are no held-out errors"
        context.warn(message, {"domain": context.domain.name})
    with precision(context.device, context.dtype):
        for part in (windows.solved_on, windows.held_out):
            for rows in batches(*part.shape):
                entered = context.runner.enter(part[rows], len(context.hidden))
                for states in context.both:
                    states.append(entered)


def _tell_stage(prepared: PreparedRun, stage: int, seconds: float) -> None:
    job, name = prepared.job, prepared.job.stage_names[stage]
    records = _records(prepared, stage)
    _say(prepared, after_stage(stage, name, records))
    if without_order:
        operations = sorted(without_order)
        prepared.warn(
            "on this GPU the model adds up in no fixed order: bits may differ", {"operations": operations}
        )
    figures = stage_figures(records)
    tokens = job.calibration_tokens(stage)
    prepared.observer.tell(
        StageResult(stage=stage, domain=name, **figures, calibration_tokens=tokens, seconds=seconds)
    )


def _records(context: RunContext, stage: int) -> list[dict[str, Any]]:
    """The matrices' records of a stage; the last ones that its state files carry."""
    folder = context.folder_of(stage)
    histories = (read_history(folder.path(folder.state(block.index))) for block in context.blocks)
    return [dict(record) for history in histories for record in history[-1]]


def _all_records(context: RunContext) -> list[list[dict[str, Any]]]:
    """Those of every stage: the last domain's files carry them of all domains."""
    domains, first = len(context.job.domains), context.job.first_stage
    folder = context.folder_of(domains - 1)
    histories = [read_history(folder.path(folder.state(block.index))) for block in context.blocks]
    found = [
        [dict(record) for history in histories for record in history[first + stage]] for stage in range(domains)
    ]
    return found + [_records(context, stage) for stage in range(domains, len(context.job.stage_names))]


def _publish(prepared: PreparedRun, entries: Entries, tasks: Sequence[TaskScores]) -> Output:
    job, graph, last = prepared.job, prepared.runner.graph, len(prepared.job.domains) - 1
    folder = prepared.folder_of(last)
    files = folder.complete(prepared.source, graph)
    report, summary = final_report(prepared, entries, _all_records(prepared), tasks)
    _say(prepared, [*after_tasks(tasks), *after_pruning(summary.bwt, summary.log_bwt)])
    write_json(job.workspace / REPORT, report)
    states = [folder.state(block.index) for block in graph.blocks]
    named = [
        (f"{kind}/{Path(local).name}", local) for kind, of in (("model", files), ("state", states)) for local in of
    ]
    for stage, further in enumerate(job.sparsity.further, last + 1):
        kind = f"{further_folder(further)}/model"
        models = prepared.folder_of(stage).complete(prepared.source, graph)
        named += ((f"{kind}/{Path(local).name}", local) for local in models)
    named.append((REPORT, REPORT))
    return Output(files=[OutputFile(path=path, local=local) for path, local in named], summary=summary)
