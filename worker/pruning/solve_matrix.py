"""Solving one matrix: by what its group is solved with, under its own selection, as it will be written."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from secateur.spec.method import Method, Scope
from worker.pruning.allocation.curves import output_weights
from worker.pruning.calibration.portions import Group
from worker.pruning.errors import IllConditioned, about
from worker.pruning.methods import registry as methods
from worker.pruning.methods.auto import Choice, Member, Option, best, choice_of
from worker.pruning.methods.masks import Selection, Solution
from worker.pruning.methods.output_weighting import OutputMetric
from worker.pruning.model.checkpoint import DTYPES
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.model.loading import dense_weight
from worker.pruning.objective import Objective
from worker.pruning.report.records import Solved
from worker.pruning.runtime.numerics import all_finite
from worker.pruning.state.context import StageContext
from worker.pruning.state.moments import Inputs, relative_errors


def original_of(context: StageContext, matrix: PrunableWeight, loaded: Tensor) -> Tensor:
    """W0, (out, in), which errors are measured against. What is loaded may have been pruned before."""
    if context.prunes_the_pruned:
        return as_solved(context, matrix, context.source.read_slice(matrix.tensor, matrix.slice))
    return loaded


def as_solved(context: StageContext, matrix: PrunableWeight, stored: Tensor) -> Tensor:
    """A matrix of a file as (out, in), float32, on the device."""
    weight = stored.to(context.device).float()
    return weight.T if matrix.transposed else weight


def choose(
    context: StageContext,
    block: Block,
    method: Method,
    group: Group,
    inputs: Inputs,
    aims: Mapping[str, Objective],
) -> Choice:
    """What the matrices of the group that ask for `method` are solved with. aims: by matrix."""

    def member(matrix: PrunableWeight) -> Member:
        loaded = dense_weight(block, matrix)
        original = original_of(context, matrix, loaded)
        select = partial(_selection, context, matrix, original)
        return Member(matrix.name, loaded, select, original, aims[matrix.name].towards)

    def members() -> list[Member]:
        return [member(matrix) for matrix in group if context.method_of(matrix) == method]

    name = group[0].name
    with about(name):
        choice = choice_of(method, members, inputs, context.observer.check)
    for raised in (option.group.notes for option in choice.options if option.group.notes):
        context.warn("raised the damping of a Gram", {"matrix": name, **raised})
    return choice


def solve_matrix(
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
    began, target = time.monotonic() - choice.seconds, objective.towards(dense)

    def solve(option: Option) -> Solved:
        return _solve_by(context, matrix, dense, original, option, inputs, target, objective.outputs)

    def judge(solved: Solved) -> float | None:
        if inputs.held_out is None or objective.plain:
            return solved.held_out_error
        written = as_solved(context, matrix, solved.written)
        return objective.held_out_error(original if target is None else target, written, inputs.held_out)

    _, solved, notes = best(choice, solve, judge)
    notes |= objective.notes(original, as_solved(context, matrix, solved.written))
    if (channels := context.channels.get(matrix.name)) is not None:
        notes |= {"channels": channels.notes}
    solution = replace(solved.solution, notes=solved.solution.notes | notes)
    return replace(solved, solution=solution, seconds=time.monotonic() - began)


def _solve_by(
    context: StageContext,
    matrix: PrunableWeight,
    dense: Tensor,
    original: Tensor,
    option: Option,
    inputs: Inputs,
    target: Tensor | None,
    outputs: OutputMetric | None,
) -> Solved:
    """By one option, see `registry.solve`; its errors are those as written, on the windows solved on and on those
    held out."""
    method, group, check = option.method, option.group, context.observer.check
    selection = _selection(context, matrix, original, method)
    scores = methods.scores(method, matrix.name, dense, group)
    solution = methods.solve(method, matrix.name, dense, scores, group, selection, check, target, outputs)
    written = _cast(context, matrix, solution)
    grams = (inputs.solved_on, None if inputs.held_out is None else inputs.held_out.gram)
    known = [gram for gram in grams if gram is not None]
    errors = iter(relative_errors(as_solved(context, matrix, written), original, known))
    solved_on, held_out = (None if gram is None else next(errors) for gram in grams)
    return Solved(method, scores, solution, written, solved_on, held_out)


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
    """The weight in the checkpoint's own dtype and orientation, on the device."""
    cast = solution.weight.to(DTYPES[context.source.tensors[matrix.tensor].dtype])
    if not all_finite(cast):
        raise IllConditioned(f"a weight does not fit {cast.dtype}")
    return (cast.T if matrix.transposed else cast).contiguous()
