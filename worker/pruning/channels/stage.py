"""A lineage's channels: put into another order by its first stage, before anything else is measured, and kept by
all later ones.

One pass over the dense model, as a survey's. From there on the dense model is read with its channels moved, so
that statistics, gradients, masks and files are all of one order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.spec.sparsity import Channels
from worker.pruning.calibration.hooks import find_groups, measure
from worker.pruning.calibration.portions import Group
from worker.pruning.calibration.spread import Spread
from worker.pruning.channels.free import Stored, free_channels
from worker.pruning.channels.moved import Move, MovedChannels, MovedCheckpoint
from worker.pruning.channels.proof import same_function
from worker.pruning.continuation import CHANNELS as KEY
from worker.pruning.cost import pass_work, survey_tokens
from worker.pruning.evaluation.losses import precision
from worker.pruning.methods.channel_order import channel_order, lost
from worker.pruning.model.block_runner import batches
from worker.pruning.model.checkpoint import read_file
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.model.loading import dense_weight
from worker.pruning.runtime import memory
from worker.pruning.runtime.hidden_states import HiddenStates
from worker.pruning.runtime.progress import Kind
from worker.pruning.state.context import StageContext, Tensors
from worker.pruning.state.file import read_document
from worker.pruning.state.stage_folder import StageFolder


def with_channels(context: StageContext) -> StageContext:
    """The stage with its dense model's channels in their order. context: with the model as it was registered."""
    if context.job.sparsity.channels is not Channels.permuted:
        return context
    if context.previous is not None:
        return _as_in(context, context.previous)
    return _moved(context, _search(context))


def as_written(context: StageContext) -> StageContext:
    """The same of a stage whose blocks are all written, so that its domain's files say the order."""
    if context.job.sparsity.channels is not Channels.permuted:
        return context
    return _as_in(context, context.folder_of(context.domain_stage))


def _as_in(context: StageContext, folder: StageFolder) -> StageContext:
    return _moved(context, read_channels([folder.path(folder.state(block.index)) for block in context.blocks]))


def _moved(context: StageContext, channels: dict[str, MovedChannels]) -> StageContext:
    return replace(context, source=MovedCheckpoint(context.source, channels.values()), channels=channels)


def stored_channels(
    channels: Mapping[str, MovedChannels], block: Block
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and part of the document for a block's state file. channels: by the matrix that reads them."""
    own = {each.name: channels[each.name] for each in block.matrices if each.name in channels}
    said = {
        name: {
            "moves": [asdict(move) for move in each.moves],
            "as_stored": each.as_stored,
            "permuted": each.permuted,
        }
        for name, each in own.items()
    }
    tensors = {f"{name}/{KEY}": each.order.to(torch.int32) for name, each in own.items()}
    return tensors, {KEY: said} if said else {}


def read_channels(paths: Sequence[Path]) -> dict[str, MovedChannels]:
    """What `stored_channels` put into these state files."""
    found = {}
    for path in paths:
        said = read_document(path).get(KEY, {})
        tensors = read_file(path, {f"{name}/{KEY}" for name in said}) if said else {}
        for name, each in said.items():
            moves = tuple(Move(**move) for move in each["moves"])
            order = tensors[f"{name}/{KEY}"].long()
            found[name] = MovedChannels(order, moves, each["as_stored"], each["permuted"])
    return found


def _search(context: StageContext) -> dict[str, MovedChannels]:
    windows = context.windows.solved_on
    windows = windows[: survey_tokens(context.job, context.domain.calibration) // windows.shape[1]]
    found: dict[str, MovedChannels] = {}
    unproven = []
    with precision(context.device, context.dtype), context.hidden_states() as hidden:
        for rows in batches(*windows.shape):
            hidden.append(context.runner.enter(windows[rows], len(hidden)))
        for block, tensors in context.read_ahead(context.blocks):
            context.observer.check()
            state = hidden.probe().clone()
            own = _of_block(context, block, tensors, hidden)
            if own and not same_function(context, block, tensors, own, state):
                unproven.append(block.index)
                own = {}
            found |= own
            context.runner.unload(block)
    memory.trim()
    if unproven:
        message = "channels stay as they are stored where moving them changes what a block gives"
        context.warn(message, {"blocks": unproven})
    elif not found:
        context.warn("no channels of this model are free to move, or none gains by it", {})
    return found


def _of_block(
    context: StageContext, block: Block, tensors: Tensors, hidden: HiddenStates
) -> dict[str, MovedChannels]:
    """hidden: the block's inputs, replaced by its outputs."""
    context.runner.load_block(block, tensors)
    state = hidden.probe()

    def forward(given: Tensor = state) -> Tensor:
        with memory.reusing():
            return context.runner.forward(block, given)

    groups = [group for group in find_groups(block, block.matrices, forward) if _asks(context, group)]
    stored = Stored(context.source, context.runner.graph.names, block)
    free = free_channels(stored, groups, context.pruned(block), forward, state) if groups else {}
    wanted = [group for group in groups if group[0] in free]

    def run() -> None:
        for index, given in enumerate(hidden):
            hidden[index] = forward(given)
            context.tracker.advance(Kind.forward, pass_work(block, given))

    spread, none = Spread.over(context.runner, block, wanted, _cost), {group[0].name: 0 for group in wanted}
    measured = measure(block, wanted, run, context.device, gram_tokens=none, spread=spread)
    orders = (
        _order(context, spread.block(name), group[0], measured[name].second)
        for name, group in ((group[0].name, group) for group in wanted)
    )
    return {
        group[0].name: MovedChannels(order, free[group[0]], *shares)
        for group, (order, shares) in zip(wanted, orders, strict=True)
        if shares[1] < shares[0]
    }


def _cost(group: Group) -> float:
    """Of its statistics: an addition a number of its inputs."""
    return float(group[0].columns)


def _asks(context: StageContext, group: Group) -> bool:
    target = context.targets[group[0].name]
    return len(group) == 1 and target.zeros is not None and target.pattern.group is not None


def _order(
    context: StageContext, block: Block, matrix: PrunableWeight, second: Tensor
) -> tuple[Tensor, tuple[float, float]]:
    """The order of the inputs, (in,), int64, on the CPU, and which shares of the scores go as stored and so.

    second: E x², (in,). Scores are what a weight's going adds to the squared error: W² E x², or W² where the
    method looks at weights alone.
    """
    pattern, method = context.targets[matrix.name].pattern, context.method_of(matrix)
    assert pattern.kept is not None and pattern.group is not None  # noqa: S101, PT018 - for the type checker
    scores = dense_weight(block, matrix).square()
    if method.scores_inputs or method.updates_weights:
        scores = scores * second
    order = channel_order(scores, pattern.kept, pattern.group)
    orders = (scores, scores[:, order])
    sums = [scores.sum(dtype=torch.float64), *(lost(each, pattern.kept, pattern.group) for each in orders)]
    whole, as_stored, permuted = torch.stack(sums).tolist()
    return order.cpu(), (as_stored / whole, permuted / whole) if whole > 0 else (0.0, 0.0)
