"""What a block's inputs look like on one domain's text: groups, statistics, sums, and who got too few tokens."""

import math
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Final, Self

import torch
from torch import Tensor

from worker.pruning.calibration.copal_sums import CopalSums, complete, find_copal_sums
from worker.pruning.calibration.dense_prefix import PrefixGap, comparable_groups
from worker.pruning.calibration.domain_grams import DomainGrams, read_domain_grams, with_domain_grams
from worker.pruning.calibration.expert_fallback import ExpertTokens, feed
from worker.pruning.calibration.hooks import AllHeard, find_groups, measure
from worker.pruning.calibration.portions import Group, portions
from worker.pruning.calibration.routed_tokens import RoutedTokens, routed_tokens
from worker.pruning.calibration.spread import Spread
from worker.pruning.continuation import check_moments, factors
from worker.pruning.cost import gram_work, importance_work, pass_work, solve_work
from worker.pruning.errors import IllConditioned
from worker.pruning.model.graph import Block
from worker.pruning.model.loading import dense_weight
from worker.pruning.runtime import memory
from worker.pruning.runtime.numerics import all_finite
from worker.pruning.runtime.progress import Kind
from worker.pruning.state.context import StageContext
from worker.pruning.state.file import read_document, read_state
from worker.pruning.state.moments import Accumulated, Inputs, Measured, accumulate, alone

ERROR_TOKENS: Final = 4096
"""Errors of weights that are not solved for are measured on so many tokens at least, if there are as many: the
Gram of all of them would take longer than all the rest of such a method."""


@dataclass(frozen=True)
class Collected:
    """groups: of a portion, its pruned matrices by the input that they read. inputs: by group. experts: by matrix,
    for those of experts. domain_grams: by group, every domain's own, where the job keeps them."""

    groups: list[Group]
    inputs: Mapping[str, Inputs]
    experts: Mapping[str, ExpertTokens]
    domain_grams: DomainGrams


class BlockInputs:
    """All that is known of the inputs of a loaded block, portion by portion.

    portions: its groups, see `portions`; none where nothing of it is pruned. Raises UserError for a state to
    continue that lacks a group.
    """

    def __init__(self, context: StageContext, block: Block) -> None:
        self._context, self._block = context, block
        self.portions: list[list[Group]] = []
        self._stack = ExitStack()
        if not (matrices := context.pruned(block)):
            pass_dense(context, block)
            return
        groups = find_groups(block, matrices, lambda: context.forward(block, context.probe))
        self.portions = portions(groups)
        if (path := context.sums_before(block)) is not None and context.accumulates:
            check_moments(groups, read_document(path)["groups"])
        self._compared = _compared(context, block, groups)
        # The calls of experts that are repeated portion by portion are all of one device.
        if len(self.portions) > 1:
            self.spread = Spread.alone(block, context.device)
        else:
            self.spread = Spread.over(context.runner, block, groups, partial(group_cost, context))
        self._solving, self._judging = (
            self._stack.enter_context(
                routed_tokens(self.portions, context.job.workspace, context.device, context.observer.check)
            )
            for _ in range(2)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def collect(self, groups: list[Group]) -> Collected:
        """One of the portions. Raises IllConditioned for inputs that are not finite."""
        context, block, solving = self._context, self._block, self._solving
        before = _carried(context, block, groups, self.spread)
        if not context.measures:
            return self._as_before(groups, before)
        length, home = context.windows.solved_on.shape[1], self.spread.home
        copal_sums = find_copal_sums(groups, context.method_of, before, length, home)
        measured = self._measure(groups, solving, copal_sums)
        pooled = None if solving is None else partial(solving.pooled, block, context.device)
        measured, experts = feed(block, groups, measured, copal_sums, before, pooled)
        names = {matrix: group[0].name for group in groups for matrix in group}
        measured = complete(
            groups,
            measured,
            copal_sums,
            lambda matrix: dense_weight(self.spread.block(names[matrix]), matrix),
        )
        domain_grams = _domain_grams(context, block, measured)
        judged = self._judge(groups)
        for name, statistics in measured.items():
            if statistics.tokens == 0:
                context.warn("no calibration token reached this input", {"matrix": name})
        _check_finite(measured)
        inputs = _summed(context, block, groups, before, measured, judged)
        return Collected(groups, inputs, experts, domain_grams)

    def _as_before(self, groups: list[Group], before: Mapping[str, Accumulated]) -> Collected:
        """With the sums as they were left, and the windows held out behind what this stage has pruned."""
        judged = self._judge(groups)
        path = self._context.sums_before(self._block)
        kept = {} if path is None else read_domain_grams(path, before)
        inputs = {name: Inputs(sums, None, _reached(judged.get(name))) for name, sums in before.items()}
        return Collected(groups, inputs, {}, kept)

    def _judge(self, groups: list[Group]) -> dict[str, Measured]:
        """The windows held out, if there are any."""
        judged = self._measure(groups, self._judging, judges=True) if self._context.held_out else {}
        _check_finite(judged)
        return judged

    def _measure(
        self,
        groups: list[Group],
        routed: RoutedTokens | None,
        copal_sums: Mapping[str, CopalSums] | None = None,
        *,
        judges: bool = False,
    ) -> dict[str, Measured]:
        """judges: the windows held out; else those to solve on. routed: of these windows, where there are several
        portions."""
        context, block = self._context, self._block
        again = routed is not None and routed.complete
        gap = None if again else _gap(context, self._compared, self.spread, judges=judges)
        limits = {group[0].name: ERROR_TOKENS for group in groups if not _needs_gram(context, group)}
        return measure(
            block,
            groups,
            partial(self._pass, judges, gap, routed),
            context.device,
            copal_sums,
            stop_early=not self._passes_on,
            gram_tokens=limits,
            prefix_gap=gap,
            routed=routed,
            spread=self.spread,
        )

    @property
    def _passes_on(self) -> bool:
        """Whether what is measured is on its way to the next block: the last one's outputs are nobody's inputs."""
        return self._context.behind_dense and self._block is not self._context.blocks[-1]

    def _pass(self, judges: bool, gap: PrefixGap | None, routed: RoutedTokens | None) -> None:
        """The windows held out through the block, or those to solve on."""
        context, block = self._context, self._block
        states = context.held_out if judges else context.solved_on
        first = len(context.solved_on) if judges else 0
        behind = (
            repeat(None) if gap is None or context.dense is None else context.dense[first : first + len(states)]
        )
        for index, (state, dense) in enumerate(zip(states, behind, strict=False), first):
            with suppress(AllHeard), memory.reusing():
                found = context.forward(block, self._heard(state))
                if self._passes_on:
                    context.hidden[index] = found
            if gap is not None and dense is not None:
                with gap.dense_pass(), nullcontext() if routed is None else routed.paused():
                    _pass_batch(context, block, index, self._heard(dense))
            context.tracker.advance(Kind.forward, pass_work(block, state) + self._measuring(state))

    def _heard(self, state: Tensor) -> Tensor:
        """A batch on a device that is listened to."""
        return state if state.device in self.spread.blocks else state.to(self._context.device)

    def _measuring(self, state: Tensor) -> float:
        """The operations that a batch's statistics take in all portions."""
        context, matrices = self._context, self._context.pruned(self._block)
        importance = sum(importance_work(context.method_of(matrix), matrix) for matrix in matrices)
        return gram_work(self._block, state) + importance * math.prod(state.shape[:2])


def group_cost(context: StageContext, group: Group) -> float:
    """Operations of a group's statistics and of what is solved with them."""
    tokens = context.windows.solved_on.numel()
    solved = sum(solve_work(context.method_of(matrix), matrix) for matrix in group)
    return 2.0 * tokens * group[0].columns ** 2 + solved


def _check_finite(measured: Mapping[str, Measured]) -> None:
    parts: dict[torch.device, list[Tensor]] = defaultdict(list)
    for statistics in measured.values():
        parts[statistics.gram.device] += statistics.parts
    if all(all_finite(*own) for own in parts.values()):
        return  # one look a device, however many experts there are
    for name, statistics in measured.items():
        if not statistics.finite:
            raise IllConditioned(f"{name}: its inputs are not finite")


def _reached(judged: Measured | None) -> Measured | None:
    """What windows held out say of an input; None where none of their tokens reached it."""
    return judged if judged is not None and judged.tokens else None


def _carried(context: StageContext, block: Block, groups: list[Group], spread: Spread) -> dict[str, Accumulated]:
    """The sums of earlier domains, by group."""
    path = context.sums_before(block)
    found: dict[str, Accumulated] = {}
    if path is None or not context.accumulates:
        return found
    for device in spread.blocks:
        names = {group[0].name for group in groups if spread.home(group[0].name) == device}
        found |= read_state(path, device, names) if names else {}
    return found


def _compared(context: StageContext, block: Block, groups: list[Group]) -> list[Group]:
    """The groups that have a matrix to solve towards the dense prefix, and inputs that are compared with its."""
    if context.dense is None:
        return []
    asking = [group for group in groups if any(context.method_of(matrix).follows_dense for matrix in group)]
    return comparable_groups(block, asking, lambda given: context.forward(block, given), context.probe)


def _gap(context: StageContext, groups: list[Group], spread: Spread, *, judges: bool) -> PrefixGap | None:
    """None where no dense prefix is followed. judges: of windows held out."""
    if context.dense is None:
        return None
    return PrefixGap({group[0].name: group[0].columns for group in groups}, spread.home, judges=judges)


def pass_dense(context: StageContext, block: Block) -> None:
    """What is behind the dense prefix through the loaded block, which is dense; nothing where none is followed."""
    for index, state in enumerate(context.dense or ()):
        _pass_batch(context, block, index, state)


def _pass_batch(context: StageContext, block: Block, index: int, state: Tensor) -> None:
    assert context.dense is not None  # noqa: S101 - for the type checker
    with memory.reusing():
        context.dense[index] = context.forward(block, state)
    context.tracker.advance(Kind.forward, pass_work(block, state))


def _needs_gram(context: StageContext, group: Group) -> bool:
    """Whether a Gram of all tokens is for more than measuring errors. An expert's may have to stand in for
    others'."""
    if context.job.output.keep_domain_statistics or any(matrix.expert is not None for matrix in group):
        return True
    return any(context.method_of(matrix).statistics for matrix in group)


def _domain_grams(context: StageContext, block: Block, measured: Mapping[str, Measured]) -> DomainGrams:
    """Those of the groups that were measured."""
    if not context.job.output.keep_domain_statistics:
        return {}
    grams = {name: each.gram for name, each in measured.items()}
    return with_domain_grams(context.sums_before(block), context.domain.name, grams)


def _summed(
    context: StageContext,
    block: Block,
    groups: list[Group],
    before: Mapping[str, Accumulated],
    measured: Mapping[str, Measured],
    judged: Mapping[str, Measured],
) -> dict[str, Inputs]:
    """The sums after this domain beside what it brings. A Gram is kept where any of a group is solved with it."""
    path = context.sums_before(block)
    by = factors(context.job, context.stage, None if path is None else read_document(path))
    found = {}
    for group in groups:
        name = group[0].name
        statistics, carried = measured[name], before.get(name)
        keep = any(context.method_of(matrix).updates_weights for matrix in group)
        sums = accumulate(carried, statistics, keep_gram=keep, weight=by.weight, keeps=by.keeps)
        only = not context.learns or (carried is None and context.domain.weight == 1)
        found[name] = Inputs(
            sums=sums,
            measured=statistics,
            held_out=_reached(judged.get(name)),
            alone=None if only else alone(carried, statistics),
        )
    return found
