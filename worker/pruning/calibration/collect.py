"""What a block's inputs look like on one domain's text: groups, statistics, sums, and who got too few tokens."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from worker.pruning.calibration.copal_sums import CopalSums, complete, find_copal_sums
from worker.pruning.calibration.dense_prefix import PROBE_TOKENS, PrefixGap, comparable_groups
from worker.pruning.calibration.domain_grams import DomainGrams, with_domain_grams
from worker.pruning.calibration.expert_fallback import ExpertTokens, feed
from worker.pruning.calibration.hooks import AllHeard, dense_weight, find_groups, measure
from worker.pruning.continuation import check_moments, factors
from worker.pruning.cost import gram_work, importance_work, pass_work
from worker.pruning.errors import IllConditioned
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.runtime import memory
from worker.pruning.runtime.progress import Kind
from worker.pruning.state.context import StageContext
from worker.pruning.state.file import read_document, read_state
from worker.pruning.state.moments import Accumulated, Inputs, Measured, accumulate, alone

ERROR_TOKENS: Final = 4096
"""Errors of weights that are not solved for are measured on so many tokens at least, if there are as many: the
Gram of all of them would take longer than all the rest of such a method."""
Group = list[PrunableWeight]
"""Matrices that read one input; it goes by the name of its first one."""


@dataclass(frozen=True)
class Collected:
    """groups: a block's pruned matrices by the input that they read. inputs: by group. experts: by matrix, for
    those of experts. domain_grams: by group, every domain's own, where the job keeps them."""

    groups: list[Group] = field(default_factory=list)
    inputs: Mapping[str, Inputs] = field(default_factory=dict)
    experts: Mapping[str, ExpertTokens] = field(default_factory=dict)
    domain_grams: DomainGrams = field(default_factory=dict)


def collect(context: StageContext, block: Block) -> Collected:
    """All that is known of the inputs of the loaded block.

    Raises IllConditioned for inputs that are not finite, UserError for a state to continue that lacks a group.
    """
    if not (matrices := context.pruned(block)):
        pass_dense(context, block)
        return Collected()
    solved_on = context.solved_on
    before = _carried(context, block)
    groups = find_groups(block, matrices, lambda: context.forward(block, solved_on[0][:1]))
    if context.accumulates and context.previous is not None:
        check_moments(groups, before)
    copal_sums = find_copal_sums(groups, context.method_of, before, solved_on[0].shape[1], context.device)
    compared = _compared(context, block, groups)
    measured = _measure(context, block, groups, 0, _gap(context, compared, judges=False), copal_sums)
    measured, experts = feed(block, groups, measured, copal_sums, before)
    measured = complete(groups, measured, copal_sums, lambda matrix: dense_weight(block, matrix))
    domain_grams = _domain_grams(context, block, measured)
    judged = {}
    if context.held_out:
        judged = _measure(context, block, groups, len(solved_on), _gap(context, compared, judges=True))
    for name, statistics in measured.items():
        if statistics.tokens == 0:
            context.warn("no calibration token reached this input", {"matrix": name})
    for name, statistics in [*measured.items(), *judged.items()]:
        if not statistics.finite:
            raise IllConditioned(f"{name}: its inputs are not finite")
    inputs = _summed(context, block, groups, before, measured, judged)
    return Collected(groups, inputs, experts, domain_grams)


def _carried(context: StageContext, block: Block) -> dict[str, Accumulated]:
    """The sums of earlier domains, by group."""
    path = context.state_before(block)
    return {} if path is None or not context.accumulates else read_state(path, context.device)


def _compared(context: StageContext, block: Block, groups: list[Group]) -> list[Group]:
    """The groups that have a matrix to solve towards the dense prefix, and inputs that are compared with its."""
    if context.dense is None:
        return []
    asking = [group for group in groups if any(context.method_of(matrix).follows_dense for matrix in group)]
    state = context.solved_on[0][:1, :PROBE_TOKENS]
    return comparable_groups(block, asking, lambda given: context.forward(block, given), state)


def _gap(context: StageContext, groups: list[Group], *, judges: bool) -> PrefixGap | None:
    """None where no dense prefix is followed. judges: of windows held out."""
    if context.dense is None:
        return None
    return PrefixGap({group[0].name: group[0].columns for group in groups}, context.device, judges=judges)


def pass_dense(context: StageContext, block: Block) -> None:
    """What is behind the dense prefix through the loaded block, which is dense; nothing where none is followed."""
    for index in range(len(context.dense or ())):
        _pass_batch(context, block, index)


def _pass_batch(context: StageContext, block: Block, index: int) -> None:
    assert context.dense is not None  # noqa: S101 - for the type checker
    state = context.dense[index]
    with memory.reusing():
        context.dense[index] = context.forward(block, state)
    context.tracker.advance(Kind.forward, pass_work(block, state))


def _measure(
    context: StageContext,
    block: Block,
    groups: list[Group],
    first: int,
    gap: PrefixGap | None,
    copal_sums: Mapping[str, CopalSums] | None = None,
) -> dict[str, Measured]:
    """first: the batch that the windows to measure begin with, those to solve on or those held out."""
    batches = context.held_out if first else context.solved_on
    importance = sum(importance_work(context.method_of(matrix), matrix) for group in groups for matrix in group)

    def run() -> None:
        for index, state in enumerate(batches, first):
            with suppress(AllHeard), memory.reusing():
                context.forward(block, state)
            if gap is not None:
                with gap.dense_pass():
                    _pass_batch(context, block, index)
            measuring = gram_work(block, state) + importance * math.prod(state.shape[:2])
            context.tracker.advance(Kind.forward, pass_work(block, state) + measuring)

    limits = {group[0].name: ERROR_TOKENS for group in groups if not _needs_gram(context, group)}
    return measure(
        block, groups, run, context.device, copal_sums, stop_early=True, gram_tokens=limits, prefix_gap=gap
    )


def _needs_gram(context: StageContext, group: Group) -> bool:
    """Whether a Gram of all tokens is for more than measuring errors. An expert's may have to stand in for
    others'."""
    if context.job.output.keep_domain_statistics or any(matrix.expert is not None for matrix in group):
        return True
    return any(context.method_of(matrix).statistics for matrix in group)


def _domain_grams(context: StageContext, block: Block, measured: Mapping[str, Measured]) -> DomainGrams:
    if not context.job.output.keep_domain_statistics:
        return {}
    grams = {name: each.gram for name, each in measured.items()}
    return with_domain_grams(context.state_before(block), context.domain.name, grams)


def _summed(
    context: StageContext,
    block: Block,
    groups: list[Group],
    before: Mapping[str, Accumulated],
    measured: Mapping[str, Measured],
    judged: Mapping[str, Measured],
) -> dict[str, Inputs]:
    """The sums after this domain beside what it brings. A Gram is kept where any of a group is solved with it."""
    path = context.state_before(block)
    by = factors(context.job, context.stage, None if path is None else read_document(path))
    found = {}
    for group in groups:
        name = group[0].name
        statistics, carried, held_out = measured[name], before.get(name), judged.get(name)
        keep = any(context.method_of(matrix).updates_weights for matrix in group)
        sums = accumulate(carried, statistics, keep_gram=keep, weight=by.weight, keeps=by.keeps)
        only = carried is None and context.domain.weight == 1
        found[name] = Inputs(
            sums=sums,
            measured=statistics,
            held_out=held_out if held_out is not None and held_out.tokens else None,
            alone=None if only else alone(carried, statistics),
        )
    return found
