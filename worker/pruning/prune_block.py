"""Pruning one block: measure its inputs, solve its matrices, have it written, and move on through it."""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from secateur.spec.method import Method
from secateur.spec.records.history import MatrixRecord, SensitivitySummary
from worker.pruning.block_state import BlockState
from worker.pruning.calibration.collect import BlockInputs, Collected, group_cost
from worker.pruning.calibration.domain_grams import Packed, domain_errors
from worker.pruning.calibration.portions import Group
from worker.pruning.calibration.spread import shared_out
from worker.pruning.cost import pass_work, solve_work
from worker.pruning.errors import about
from worker.pruning.methods import registry as methods
from worker.pruning.model.checkpoint import read_file
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.model.loading import dense_weight, shares_memory
from worker.pruning.objective import BlockGrams, objectives, output_grams_of
from worker.pruning.refine.block import tune_block
from worker.pruning.report.records import Solved, matrix_record, tuned_record
from worker.pruning.report.sensitivity import keepable, summaries_of
from worker.pruning.runtime import memory
from worker.pruning.runtime.hidden_states import HiddenStates, Room
from worker.pruning.runtime.lanes import side_by_side
from worker.pruning.runtime.progress import Kind
from worker.pruning.runtime.waiting import settled
from worker.pruning.solve_matrix import as_solved, choose, original_of, solve_matrix
from worker.pruning.state.context import StageContext, Tensors
from worker.pruning.state.digests import Contents
from worker.pruning.state.moments import on_device
from worker.pruning.write_block import PrunedMatrix, write_block


@dataclass(frozen=True)
class _New:
    """One matrix that has no place among the block's tensors yet. written: as its file will have it, on the CPU;
    sent: the same on the device. scores: see `PrunedMatrix`."""

    record: MatrixRecord
    summaries: list[SensitivitySummary]
    written: Tensor
    sent: Tensor
    scores: Tensor | None


def read_block(context: StageContext, block: Block) -> Tensors:
    """What a block is pruned from."""
    pinned = context.runner.pinned
    if context.prunes_the_pruned and (path := context.shard_before(block)) is not None:
        return read_file(path, pinned=pinned)
    return context.source.read(block.tensors, pinned=pinned)


def prune_block(context: StageContext, block: Block, tensors: Tensors) -> None:
    """Begin to write the block's shard and state, which is told of when they are whole, and send the hidden states
    through the block as written, or as it was where inputs are those behind dense blocks.

    tensors: what `read_block` gave; the matrices in it are replaced.
    """
    context.runner.load_block(block, tensors)
    # Grams and factors are gone with this call, before the forward pass takes memory.
    pruned, state = _prune_matrices(context, block, tensors)
    context.behind.write(partial(write_block, context, block, tensors, pruned, state))
    passed = context.behind_dense and bool(pruned)
    del pruned, state
    advance_through(context, block, passed=passed)


def advance_through(context: StageContext, block: Block, *, passed: bool = False) -> None:
    """Replace the hidden states by what the loaded block makes of them, and unload it. passed: they have been.

    The last block's outputs are nobody's inputs.
    """
    if block is context.blocks[-1]:
        for states in context.both:
            states.clear()
    for index, state in enumerate(() if passed else context.hidden):
        with memory.reusing():
            context.hidden[index] = context.forward(block, state)
        context.tracker.advance(Kind.forward, pass_work(block, state))
    context.runner.unload(block)
    memory.trim()  # so that no block adds to the one before


def _prune_matrices(
    context: StageContext, block: Block, tensors: Tensors
) -> tuple[dict[PrunableWeight, PrunedMatrix], BlockState]:
    """The loaded block's matrices, put into `tensors`, and what its state file will hold."""
    for name in {matrix.tensor for matrix in block.matrices if matrix.slice is not None}:
        if shares_memory(block, tensors[name]):  # and is written to in place
            tensors[name] = tensors[name].clone()
    output_grams = output_grams_of(context, block)
    pruned: list[PrunedMatrix] = []
    with BlockInputs(context, block) as inputs, _scratch(context) as scratch:
        several = len(inputs.portions) > 1
        state = BlockState(context, block, partial(_in_file, scratch) if several else None)
        for portion in inputs.portions:
            # Grams and factors are gone before those of the next portion take memory.
            collected = inputs.collect(portion)
            pruned += _prune_portion(context, block, tensors, collected, output_grams, state)
            del collected
    state.add_output_grams(output_grams)
    every = [matrix for portion in inputs.portions for group in portion for matrix in group]
    if context.wanted is not None and pruned:
        pruned = _tuned(context, block, tensors, every, pruned)
    return dict(zip(every, pruned, strict=True)), state


def _tuned(
    context: StageContext,
    block: Block,
    tensors: Tensors,
    matrices: list[PrunableWeight],
    pruned: list[PrunedMatrix],
) -> list[PrunedMatrix]:
    """All matrices after they were tuned together. tensors: as solved, then as tuned, and so is what is loaded."""
    tuned = tune_block(context, block, tensors)
    context.runner.load_block(block, tensors)
    return [
        replace(
            each,
            record=tuned_record(each.record, tuned.notes),
            contents=_contents(context, tensors, matrix),
        )
        for matrix, each in zip(matrices, pruned, strict=True)
    ]


def _contents(context: StageContext, tensors: Tensors, matrix: PrunableWeight) -> "Future[Contents]":
    """What a matrix that has its place in `tensors` shows there: what is read later is no second copy of it."""
    return context.behind.begin(partial(Contents.of, matrix.of(tensors)))


def _scratch(context: StageContext) -> HiddenStates:
    """For tensors that are only to be written; all in a file."""
    return HiddenStates(context.job.workspace, torch.device("cpu"), Room())


def _in_file(scratch: HiddenStates, tensor: Tensor) -> Tensor:
    scratch.append(tensor)
    return scratch[-1]


def _prune_portion(
    context: StageContext,
    block: Block,
    tensors: Tensors,
    collected: Collected,
    output_grams: BlockGrams,
    state: BlockState,
) -> list[PrunedMatrix]:
    """A portion's matrices, put into `tensors`, and what is known of their inputs into `state`."""
    memory.trim()  # what measuring leaves behind does not serve solving
    pruned: list[PrunedMatrix] = []
    homes = shared_out(collected.groups, context.runner.devices, partial(group_cost, context))
    tasks = [
        (home, partial(_prune_group, context.on(home), block, group, collected, output_grams))
        for group, home in ((group, homes[group[0].name]) for group in collected.groups)
    ]
    for group, found in zip(collected.groups, side_by_side(tasks), strict=True):
        pruned += [_put(context, block, tensors, matrix, each) for matrix, each in zip(group, found, strict=True)]
    state.add(collected)
    return pruned


def _put(context: StageContext, block: Block, tensors: Tensors, matrix: PrunableWeight, new: _New) -> PrunedMatrix:
    """A matrix as written into what will be written, and into the loaded block."""
    context.runner.put_weight(block, matrix, new.sent)
    if matrix.slice is None:
        tensors[matrix.name] = new.written
    else:
        matrix.of(tensors).copy_(new.written)
    return PrunedMatrix(new.record, _contents(context, tensors, matrix), new.summaries, new.scores)


def _prune_group(
    context: StageContext,
    block: Block,
    group: Group,
    collected: Collected,
    output_grams: BlockGrams,
) -> list[_New]:
    """Matrices that read one input, each solved by its own method, on the context's device."""
    name, block = group[0].name, context.runner.own(block)
    inputs = on_device(collected.inputs[name], context.device)
    output_grams = {
        matrix.name: [part.to(context.device) for part in output_grams[matrix.name]]
        for matrix in group
        if matrix.name in output_grams
    }
    asked = dict.fromkeys(map(context.method_of, group))
    aims = objectives(context, block, group, inputs, output_grams)
    choices = {method: choose(context, block, method, group, inputs, aims) for method in asked}

    @cache
    def own_domain(method: Method) -> methods.Group | None:
        """What the scores of the stage's domain alone come from."""
        return None if inputs.alone is None else methods.prepare_alone(method, inputs.alone)

    pruned, dead = [], int(inputs.sums.dead.sum())
    for matrix in group:
        context.observer.check()
        loaded = dense_weight(block, matrix)
        dense, original = loaded.contiguous(), original_of(context, matrix, loaded)
        with about(matrix.name):
            choice = choices[context.method_of(matrix)]
            solved = solve_matrix(context, matrix, dense, original, choice, inputs, aims[matrix.name])
            own = own_domain(solved.method)
            # Scores are of inputs alone: a further target has those of the last domain's stage.
            summaries = (
                summaries_of(solved.method, matrix.name, dense, solved.scores, own) if context.learns else []
            )
        record = matrix_record(context.targets[matrix.name], solved, dead, collected.experts.get(matrix.name))
        written, kept = settled(solved.written).cpu(), _kept_scores(context, matrix, solved)
        pruned.append(_New(record, summaries, written, solved.written, kept))
        context.tracker.advance(Kind.solve, solve_work(context.method_of(matrix), matrix))
        del solved, loaded, dense, original
    if name not in collected.domain_grams:
        return pruned
    return _on_every_domain(context, block, group, pruned, collected.domain_grams[name])


def _kept_scores(context: StageContext, matrix: PrunableWeight, solved: Solved) -> Tensor | None:
    if not (context.job.output.keep_sensitivities and context.learns):
        return None
    return keepable(solved.scores, transposed=matrix.transposed)


def _on_every_domain(
    context: StageContext, block: Block, group: Group, pruned: list[_New], grams: Mapping[str, Packed]
) -> list[_New]:
    """With the matrices' errors under the Gram of every domain that was kept."""
    weights = [as_solved(context, matrix, each.sent) for matrix, each in zip(group, pruned, strict=True)]
    dense = [original_of(context, matrix, dense_weight(block, matrix)) for matrix in group]
    errors = domain_errors(grams, list(zip(weights, dense, strict=True)))
    return [
        replace(each, record=each.record.model_copy(update={"domain_errors": own}))
        for each, own in zip(pruned, errors, strict=True)
    ]
