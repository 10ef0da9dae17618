"""Pruning one block: measure its inputs, solve its matrices, write it, and move on through what was written."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

from torch import Tensor, float32

from secateur.spec.method import Method, Scope
from secateur.spec.records.history import MatrixRecord, SensitivitySummary
from secateur.spec.records.pipe import BlockResult
from worker.pruning.allocation.allocate import stored_survey
from worker.pruning.allocation.curves import output_weights
from worker.pruning.allocation.output_grams import stored_output_grams
from worker.pruning.calibration.collect import Collected, Group, collect
from worker.pruning.calibration.domain_grams import Packed, domain_errors, stored_domain_grams
from worker.pruning.calibration.hooks import dense_weight
from worker.pruning.continuation import FOLLOWING, MEMBERS, PREFIX, following_groups, held_statistics
from worker.pruning.continuation import KEY as HOLDS
from worker.pruning.cost import pass_work, solve_work
from worker.pruning.errors import IllConditioned, about
from worker.pruning.methods import registry as methods
from worker.pruning.methods.auto import Choice, Member, Option, best, choice_of
from worker.pruning.methods.masks import Selection, Solution
from worker.pruning.model.block_runner import unload
from worker.pruning.model.checkpoint import DTYPES, read_file
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.objective import BlockGrams, Objective, objectives, output_grams_of, weighing
from worker.pruning.report.records import Solved, compare_masks, matrix_record, read_history, stored_history
from worker.pruning.report.sensitivity import keepable, summaries_of
from worker.pruning.runtime import memory
from worker.pruning.runtime.numerics import all_finite
from worker.pruning.runtime.prefetch import beside
from worker.pruning.runtime.progress import Kind
from worker.pruning.state.atomic import write_tensors
from worker.pruning.state.context import StageContext
from worker.pruning.state.file import StateContent, read_document, state_content
from worker.pruning.state.moments import Inputs, relative_errors


@dataclass(frozen=True)
class _Pruned:
    """One matrix. written: as its file has it, on the CPU. scores: the same, None where they are not kept."""

    record: MatrixRecord
    summaries: list[SensitivitySummary]
    written: Tensor
    scores: Tensor | None


def read_block(context: StageContext, block: Block) -> dict[str, Tensor]:
    """What a block is pruned from."""
    return _left_before(context, block) if context.prunes_the_pruned else context.source.read(block.tensors)


def prune_block(context: StageContext, block: Block, tensors: dict[str, Tensor]) -> BlockResult:
    """Write the block's shard and state, and send the hidden states through the block as written.

    tensors: what `read_block` gave; the matrices in it are replaced.
    """
    context.runner.load_block(block, tensors)
    # Grams and factors are gone with this call, before the forward pass takes memory.
    pruned, state = _prune_matrices(context, block, tensors)
    folder, index = context.folder, block.index
    scores = {each.record.matrix: each.scores for each in pruned if each.scores is not None}
    files = [("weights", folder.shard(index)), ("state", folder.state(index))]
    if scores:
        files.append(("sensitivity", folder.sensitivity(index)))

    def write() -> None:
        write_tensors(folder.path(folder.state(index)), *state)
        write_tensors(folder.path(folder.shard(index)), tensors)
        if scores:
            write_tensors(folder.path(folder.sensitivity(index)), scores)

    with beside(write):
        advance_through(context, block, tensors)
    return BlockResult(
        stage=context.stage,
        block=index,
        files=files,
        records=[each.record for each in pruned],
        sensitivity=[summary for each in pruned for summary in each.summaries],
    )


def advance_through(context: StageContext, block: Block, tensors: dict[str, Tensor]) -> None:
    """Replace the hidden states by what the block, as written, makes of them. tensors: as written.

    The last block's outputs are nobody's inputs.
    """
    if block is context.blocks[-1]:
        for states in context.both:
            states.clear()
    else:
        context.runner.load_block(block, tensors)
    for index, state in enumerate(context.hidden):
        with memory.reusing():
            context.hidden[index] = context.forward(block, state)
        context.tracker.advance(Kind.forward, pass_work(block, state))
    unload(block.module)


def _prune_matrices(
    context: StageContext, block: Block, tensors: dict[str, Tensor]
) -> tuple[list[_Pruned], StateContent]:
    """The loaded block's matrices, put into `tensors`, and what its state file will hold."""
    for name in {matrix.tensor for matrix in block.matrices if matrix.slice is not None}:
        if tensors[name].dtype is float32:
            # Written to in place; without a cast, what is loaded is the same memory.
            tensors[name] = tensors[name].clone()
    collected = collect(context, block)
    output_grams = output_grams_of(context, block)
    memory.trim()  # what measuring leaves behind does not serve solving
    pruned: list[_Pruned] = []
    for group in collected.groups:
        found = _prune_group(context, block, group, collected, output_grams)
        for matrix, each in zip(group, found, strict=True):
            if matrix.slice is None:
                tensors[matrix.name] = each.written
            else:
                matrix.of(tensors).copy_(each.written)
        pruned += found
    if context.previous is not None:
        before = _left_before(context, block)
        every = [matrix for group in collected.groups for matrix in group]
        pruned = [
            replace(each, record=compare_masks(each.record, matrix.of(tensors), matrix.of(before)))
            for matrix, each in zip(every, pruned, strict=True)
        ]
    return pruned, _state(context, block, collected, output_grams, [each.record for each in pruned])


def _left_before(context: StageContext, block: Block) -> dict[str, Tensor]:
    """The block as the stage before has written it."""
    assert context.previous is not None  # noqa: S101 - for the type checker
    return read_file(context.previous.path(context.previous.shard(block.index)))


def _prune_group(
    context: StageContext, block: Block, group: Group, collected: Collected, output_grams: BlockGrams
) -> list[_Pruned]:
    """Matrices that read one input, each solved by its own method."""
    name = group[0].name
    inputs = collected.inputs[name]
    asked = dict.fromkeys(map(context.method_of, group))
    choices = {method: _choose(context, block, method, group, inputs) for method in asked}
    aims = objectives(context, block, group, inputs, output_grams)

    @cache
    def own_domain(method: Method) -> methods.Group | None:
        """What the scores of the stage's domain alone come from."""
        return None if inputs.alone is None else methods.prepare_alone(method, inputs.alone)

    pruned = []
    for matrix in group:
        context.observer.check()
        dense = dense_weight(block, matrix).contiguous()
        original = _original(context, block, matrix)
        with about(matrix.name):
            choice = choices[context.method_of(matrix)]
            solved = _solve(context, matrix, dense, original, choice, inputs, aims[matrix.name])
            own = own_domain(solved.method)
            summaries = summaries_of(solved.method, matrix.name, dense, solved.scores, own)
        dead, expert = int(inputs.sums.dead.sum()), collected.experts.get(matrix.name)
        record = matrix_record(context.targets[matrix.name], solved, dead, expert)
        pruned.append(_Pruned(record, summaries, solved.written, _kept_scores(context, matrix, solved)))
        context.tracker.advance(Kind.solve, solve_work(context.method_of(matrix), matrix))
        del solved, dense, original
        memory.trim()  # matrices differ in shape, and so do the holes that each one leaves
    if name not in collected.domain_grams:
        return pruned
    return _on_every_domain(context, block, group, pruned, collected.domain_grams[name])


def _kept_scores(context: StageContext, matrix: PrunableWeight, solved: Solved) -> Tensor | None:
    if not context.job.output.keep_sensitivities:
        return None
    return keepable(solved.scores, transposed=matrix.transposed)


def _on_every_domain(
    context: StageContext, block: Block, group: Group, pruned: list[_Pruned], grams: Mapping[str, Packed]
) -> list[_Pruned]:
    """With the matrices' errors under the Gram of every domain that was kept."""
    weights = [_as_solved(context, matrix, each.written) for matrix, each in zip(group, pruned, strict=True)]
    dense = [_original(context, block, matrix) for matrix in group]
    errors = domain_errors(grams, list(zip(weights, dense, strict=True)))
    return [
        replace(each, record=each.record.model_copy(update={"domain_errors": own}))
        for each, own in zip(pruned, errors, strict=True)
    ]


def _original(context: StageContext, block: Block, matrix: PrunableWeight) -> Tensor:
    """W0, (out, in), which errors are measured against. What is loaded may have been pruned before."""
    if context.prunes_the_pruned:
        return _as_solved(context, matrix, context.source.read_slice(matrix.tensor, matrix.slice))
    return dense_weight(block, matrix)


def _as_solved(context: StageContext, matrix: PrunableWeight, stored: Tensor) -> Tensor:
    """A matrix of a file as (out, in), float32, on the device."""
    weight = stored.to(context.device).float()
    return weight.T if matrix.transposed else weight


def _choose(context: StageContext, block: Block, method: Method, group: Group, inputs: Inputs) -> Choice:
    """What the matrices of the group that ask for `method` are solved with."""

    def member(matrix: PrunableWeight) -> Member:
        original = _original(context, block, matrix)
        select = partial(_selection, context, matrix, original)
        return Member(matrix.name, dense_weight(block, matrix), select, original)

    def members() -> list[Member]:
        return [member(matrix) for matrix in group if context.method_of(matrix) == method]

    name = group[0].name
    with about(name):
        choice = choice_of(method, members, inputs, context.observer.check)
    for raised in (option.group.notes for option in choice.options if option.group.notes):
        context.warn("raised the damping of a Gram", {"matrix": name, **raised})
    return choice


def _solve(
    context: StageContext,
    matrix: PrunableWeight,
    dense: Tensor,
    original: Tensor,
    choice: Choice,
    inputs: Inputs,
    objective: Objective,
) -> Solved:
    """The matrix by the best of its options. dense: what it is solved from; original: what its errors are measured
    against; (out, in) both."""
    began = time.monotonic() - choice.seconds
    _, solved, notes = best(
        choice, lambda option: _solve_by(context, matrix, dense, original, option, inputs, objective)
    )
    notes |= objective.notes(original, _as_solved(context, matrix, solved.written))
    solution = replace(solved.solution, notes=solved.solution.notes | notes)
    return replace(solved, solution=solution, seconds=time.monotonic() - began)


def _solve_by(
    context: StageContext,
    matrix: PrunableWeight,
    dense: Tensor,
    original: Tensor,
    option: Option,
    inputs: Inputs,
    objective: Objective,
) -> Solved:
    """By one option; its errors are those as written, on the windows solved on and on those held out."""
    method, group, check = option.method, option.group, context.observer.check
    selection = _selection(context, matrix, original, method)
    scores = methods.scores(method, matrix.name, dense, group)
    towards, outputs = objective.towards(dense), objective.outputs
    solution = methods.solve(method, matrix.name, dense, scores, group, selection, check, towards, outputs)
    written = _cast(context, matrix, solution)
    grams = [each.gram for each in (inputs.measured, inputs.held_out) if each is not None]
    errors = [*relative_errors(_as_solved(context, matrix, written), original, grams), None]
    return Solved(method, scores, solution, written, errors[0], errors[1])


def _selection(context: StageContext, matrix: PrunableWeight, original: Tensor, method: Method) -> Selection:
    """A survey makes rows comparable, so that the whole matrix is one comparison group. original: W0, (out, in),
    on the device."""
    target = context.targets[matrix.name]
    allowed = original != 0 if context.job.sparsity.keep_zeros else None
    outputs = context.survey.outputs.get(matrix.name)
    if outputs is None:
        return Selection(target.pattern, method.comparison_group, target.zeros or 0, allowed=allowed)
    rows = output_weights(outputs.to(original.device), squared=method.squared_scores)
    return Selection(target.pattern, Scope.matrix, target.zeros or 0, rows, allowed)


def _cast(context: StageContext, matrix: PrunableWeight, solution: Solution) -> Tensor:
    """The weight in the checkpoint's own dtype and orientation."""
    cast = solution.weight.to(DTYPES[context.source.tensors[matrix.tensor].dtype])
    if not all_finite(cast):
        raise IllConditioned(f"a weight does not fit {cast.dtype}")
    return (cast.T if matrix.transposed else cast).contiguous().cpu()


def _state(
    context: StageContext,
    block: Block,
    collected: Collected,
    output_grams: BlockGrams,
    records: list[MatrixRecord],
) -> StateContent:
    """What the block's state file will hold."""
    path = context.state_before(block)
    before = None if path is None else read_document(path)
    history = [] if path is None else read_history(path)
    sums = {name: each.sums for name, each in collected.inputs.items()}
    survey = stored_survey(context.survey, block)
    surveyed = [context.targets[m.name] for m in block.matrices if m.name in context.survey.curves]
    own, kept = stored_domain_grams(collected.domain_grams)
    precision = context.job.output.state_precision
    gradients, weighed = stored_output_grams(output_grams, weighing(context, block), precision)
    kinds = (("survey", survey), ("domain_grams", own), ("output_grams", gradients))
    others = [kind for kind, held in kinds if held]
    following = [] if context.dense is None else following_groups(collected.groups, context.method_of)
    document = {
        "forward_dtype": context.dtype,
        PREFIX: list(context.windows.prefix),
        MEMBERS: {group[0].name: [matrix.name for matrix in group] for group in collected.groups},
        **({FOLLOWING: following} if following else {}),
        HOLDS: held_statistics(context.job, context.stage, sums, others, before, surveyed),
        **kept,
        **weighed,
    }
    tensors = survey | own | gradients | stored_history(history, records)
    return state_content(sums, document, tensors, precision)
