"""Tuning the whole model on one stage's windows, towards the probabilities that the dense model gives
(distillation): what stays of all blocks' matrices, or norms and biases alone.

The dense model passes first, block by block, and only its last hidden states are kept; the head makes the same
logits of them again for every step. A step keeps every block's inputs, and runs each block once more on the way
back.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

from secateur.spec.method import Refine
from secateur.spec.records.history import MatrixRecord, Phase
from secateur.spec.records.pipe import BlockResult
from worker.pruning.cost import distilling_work, pass_work, tuned_windows
from worker.pruning.evaluation.losses import pieces, precision, token_losses
from worker.pruning.model.block_runner import batches
from worker.pruning.model.checkpoint import read_file
from worker.pruning.model.graph import Block
from worker.pruning.refine.block import Tuned
from worker.pruning.refine.carried import stored_changes, with_changes
from worker.pruning.refine.earlier import Earlier, earlier
from worker.pruning.refine.loaded import Read, Streamed, Together
from worker.pruning.refine.schedule import Schedule
from worker.pruning.refine.tuning import DISTILLED_COPIES, tune
from worker.pruning.refine.written import Tensors, as_written, tuned_tensors
from worker.pruning.report.records import HISTORY, read_history, tuned_record
from worker.pruning.runtime import memory
from worker.pruning.runtime.hidden_states import HiddenStates, Room
from worker.pruning.runtime.progress import Kind
from worker.pruning.state.atomic import write_tensors
from worker.pruning.state.context import StageContext
from worker.pruning.state.digests import weights_sha256
from worker.pruning.state.file import read_document

TUNED: Final = "tuned"
"""In a state's document: whether its block is what the whole model's tuning made of it."""


@dataclass(frozen=True)
class _Distillation:
    """One stage's model, towards what `context.last` has of the dense one."""

    context: StageContext
    schedule: Schedule
    loaded: Together | Streamed
    earlier: Sequence[Earlier] = ()

    def add_gradients(self, windows: list[int]) -> None:
        """Of windows that are solved on, by number, and of what holds the weights back."""
        ids, wanted = self.context.windows.solved_on[windows], self.schedule.gather(self.context.last, windows)
        blocks, inputs = self.context.blocks, self.loaded.inputs
        inputs.clear()
        state = self._enter(ids)
        for block in self.loaded.passed(blocks):
            inputs.append(state)
            state = self._block(block, state)
        gradient = self._divergence(ids, state, wanted)
        for number, block in enumerate(self.loaded.passed(blocks[::-1]), 1):
            given = inputs[len(blocks) - number].clone().requires_grad_()
            with torch.enable_grad():
                output = self._block(block, given)
            output.backward(gradient.to(output))  # type: ignore[no-untyped-call]
            assert given.grad is not None  # noqa: S101 - for the type checker
            gradient = given.grad
        for each in self.earlier:
            each.pull()

    def held_out(self) -> float:
        """Mean loss of the text's own tokens over the windows that nothing is tuned on, as a perplexity's."""
        windows, runner, losses = self.context.windows.held_out, self.context.runner, []
        parts = [windows[rows].to(self.context.device) for rows in batches(*windows.shape)]
        # On disk: memory must not grow with what is held out.
        with HiddenStates(self.context.job.workspace, self.context.device, Room()) as states, memory.reusing():
            for ids in parts:
                states.append(self._enter(ids))
            for block in self.loaded.passed(self.context.blocks):
                self.context.observer.check()
                for number, state in enumerate(states):
                    states[number] = self._block(block, state)
            with precision(self.context.device, self.context.dtype), runner.head() as head:
                for ids, last in zip(parts, states, strict=True):
                    losses.append(token_losses(head, ids, last, runner.vocabulary, self._unpredicted(ids)))
        return float(torch.cat(losses).mean())

    def _enter(self, ids: Tensor) -> Tensor:
        with precision(self.context.device, self.context.dtype):
            return self.context.runner.enter(ids)

    def _block(self, block: Block, state: Tensor) -> Tensor:
        with precision(self.context.device, self.context.dtype):
            return self.context.runner.run(block, state)

    def _unpredicted(self, ids: Tensor) -> int:
        return min(len(self.context.windows.prefix) + 1, ids.shape[1] - 1)

    def _divergence(self, ids: Tensor, last: Tensor, wanted: Tensor) -> Tensor:
        """The gradient by `last` of the mean cross entropy against the dense model's probabilities.

        ids: (windows, length); last, wanted: the last hidden states of both, (windows, length, width).
        """
        device, unpredicted = self.context.device, self._unpredicted(ids)
        ids, wanted = ids.to(device), wanted.to(device)
        gradient = torch.zeros_like(last)
        count = ids.shape[0] * (ids.shape[1] - unpredicted)
        with precision(device, self.context.dtype), self.context.runner.head() as head:
            for piece in pieces(ids, self.context.runner.vocabulary, DISTILLED_COPIES, unpredicted):
                target = head(ids[:, piece], wanted[:, piece]).softmax(dim=-1, dtype=torch.float32)
                given = last[:, piece].clone().requires_grad_()
                with torch.enable_grad():
                    logits = head(ids[:, piece], given)
                # The cross entropy's gradient by logits, without what autograd would keep for it.
                wrong = logits.detach().softmax(dim=-1, dtype=torch.float32).sub_(target).div_(count)
                logits.backward(wrong.to(logits))  # type: ignore[no-untyped-call]
                assert given.grad is not None  # noqa: S101 - for the type checker
                gradient[:, piece] = given.grad
        return gradient


def refine_model(context: StageContext) -> None:
    """Tune a stage whose blocks are all committed, and commit them once more. Nothing, where that has been done.

    What is tuned stays beside as it was solved: a job that was killed before the last block is committed anew
    begins with that again.
    """
    folder, method, calibration = context.folder, context.job.method, context.domain.calibration
    dense, steps = distilling_work(context.job, context.runner.graph, context.targets, context.stage)
    places = [folder.path(folder.solved(block.index)) for block in context.blocks]
    if all(place.is_file() for place in places) and all(_is_tuned(context, block) for block in context.blocks):
        context.tracker.skip(Kind.forward, dense + steps)
        return
    context.tracker.move(Phase.tuning, context.stage, context.name)
    began = time.monotonic()
    count = tuned_windows(method, calibration)
    first, judging = context.windows.solved_on[:count], context.windows.held_out[:count]
    context = replace(context, windows=replace(context.windows, solved_on=first, held_out=judging))
    if not len(context.last):
        _pass_dense(context, dense)
    solved = partial(_solved, context)
    tuned, changed = _distil(context, solved, steps)
    each = (time.monotonic() - began) / sum(len(context.pruned(block)) for block in context.blocks)
    context.last.clear()
    # What is still on its way to be committed is not written over.
    context.observer.settle()
    for block in context.blocks:
        context.observer.check()
        before = solved(block)
        written = before | changed[block.index] if tuned.kept else before
        context.observer.tell(_commit(context, block, before, written, tuned, each))


def _solved(context: StageContext, block: Block) -> Tensors:
    """A committed block as it was solved."""
    folder = context.folder
    kept, found = folder.path(folder.solved(block.index)), read_file(folder.path(folder.shard(block.index)))
    return found | read_file(kept) if kept.is_file() else found


def _pass_dense(context: StageContext, work: float) -> None:
    """Fill `context.last` with the dense model's last hidden states. work: what is planned for it; none, where a
    survey was to leave them and this is another run of the job."""
    with precision(context.device, context.dtype):
        part = context.windows.solved_on
        for rows in batches(*part.shape):
            context.last.append(context.runner.enter(part[rows], len(context.last)))
    for block, tensors in context.read_ahead(context.blocks):
        context.runner.load_block(block, tensors)
        del tensors
        for index, state in enumerate(context.last):
            with memory.reusing():
                context.last[index] = context.forward(block, state)
            context.tracker.advance(Kind.forward, pass_work(block, state) if work else 0.0)
        context.runner.unload(block)
    memory.trim()


def _distil(context: StageContext, solved: Read, work: float) -> tuple[Tuned, list[Tensors]]:
    """What became of the held-out loss, and of each block what has changed, as it would be written. work: of all
    steps."""
    whole = context.job.method.refine is Refine.model
    schedule, blocks = Schedule(context, "model"), context.blocks
    blocks_of: type[Together | Streamed] = Together if whole else Streamed
    with blocks_of(context) as loaded:
        loaded.load(solved)
        before = _Distillation(context, schedule, loaded).held_out()
        anchors = []
        if whole:
            loaded.load(lambda block: with_changes(context, block, solved(block)))
            anchors = [earlier(context, block, diagonal=True) for block in blocks]
        distillation = _Distillation(context, schedule, loaded, anchors)
        tunables = [loaded.own(block, solved(block)) for block in blocks]
        every = [tunable for own in tunables for tunable in own.values()]
        with memory.reusing():
            for _ in tune(every, schedule.epochs(), schedule.steps, schedule.settings, distillation.add_gradients):
                context.tracker.advance(Kind.forward, work / schedule.steps)
        found = [
            as_written(context, block, solved(block), own) for block, own in zip(blocks, tunables, strict=True)
        ]
        del every, tunables
        changed = [tensors for tensors in found if tensors is not None]
        after, lost = math.nan, None
        if len(changed) == len(found):
            loaded.load(lambda block: solved(block) | changed[block.index])
            after = distillation.held_out()
            losses = [each.loss() for each in anchors if each.anchors]
            lost = sum(losses) if losses else None
    return Tuned(before, after if math.isfinite(after) else None, lost), changed


def _commit(
    context: StageContext, block: Block, solved: Tensors, written: Tensors, tuned: Tuned, seconds: float
) -> BlockResult:
    """Write a block, its records and what it was, and say so. seconds: a matrix's part of the time.

    What it was comes first, so that it can be tuned again, and the state, which says that it is tuned, last.
    """
    folder, index = context.folder, block.index
    shard, state, kept = (folder.path(place(index)) for place in (folder.shard, folder.state, folder.solved))
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(kept, {name: solved[name] for name in tuned_tensors(context, block)})
    records = _records(context, block, written, tuned, seconds)
    history = [*read_history(state)[:-1], [record.model_dump(exclude={"seconds"}) for record in records]]
    text = json.dumps(history, sort_keys=True, allow_nan=False)
    tensors = read_file(state) | {HISTORY: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}
    if context.job.method.refine is Refine.model:
        # Where nothing of this stage is kept, what those before have changed goes on to the next one.
        changed = written if tuned.kept else with_changes(context, block, solved)
        tensors |= stored_changes(context, block, solved, changed)
    document = json.dumps(read_document(state) | {TUNED: True}, sort_keys=True, allow_nan=False)
    write_tensors(shard, written)
    write_tensors(state, tensors, ("secateur", document))
    files = [("weights", folder.shard(index)), ("state", folder.state(index)), ("solved", folder.solved(index))]
    return BlockResult(stage=context.stage, block=index, files=files, records=records, sensitivity=[])


def _is_tuned(context: StageContext, block: Block) -> bool:
    """Whether the block's state says so."""
    return bool(read_document(context.folder.path(context.folder.state(block.index))).get(TUNED, False))


def _records(
    context: StageContext, block: Block, written: Tensors, tuned: Tuned, seconds: float
) -> list[MatrixRecord]:
    """The block's records of this stage, of what is written now; their time is that of the tuning."""
    matrices = {matrix.name: matrix for matrix in block.matrices}
    state = context.folder.path(context.folder.state(block.index))
    held = [MatrixRecord(**{**record, "seconds": seconds}) for record in read_history(state)[-1]]
    digests = {record.matrix: weights_sha256(matrices[record.matrix].of(written)) for record in held}
    return [
        tuned_record(record, tuned.notes).model_copy(update={"weights_sha256": digests[record.matrix]})
        for record in held
    ]
