"""Which channels inside a block can be moved: found by running it with other outputs of its matrices.

A matrix's inputs are free where, token by token and channel by channel, each comes from the same channel of the
matrices before it and from nothing else: an activation, or a gate's product. Whether the block is then the same
function is shown by `channels.proof`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from worker.pruning.calibration.portions import Group
from worker.pruning.channels.moved import Move
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.experts import DOWN, expert_weight, first_parameter
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.model.weight_names import Names

STEP: Final = 4
"""Every so many-th output is changed, from number 1 on."""
COPIES: Final = 2
"""Times at most that a matrix gives each channel."""
Forward = Callable[[Tensor], object]


@dataclass(frozen=True)
class Stored:
    """Where the checkpoint keeps the block's tensors."""

    checkpoint: Checkpoint
    names: Names
    block: Block

    def of_matrix(self, matrix: PrunableWeight, side: int, copies: int = 1, *, interleaved: bool = False) -> Move:
        """side: 0 for its outputs, 1 for its inputs."""
        return Move(matrix.tensor, matrix.slice, 1 - side if matrix.transposed else side, copies, interleaved)

    def of_bias(self, path: str, shape: tuple[int, ...]) -> str | None:
        """The tensor of a bias at `path` in the block; None where it is not stored as it is."""
        parts = self.names.sources(f"{self.block.prefix}.{path}")
        plain = len(parts) == 1 and self.names.is_renamed(parts[0].name)
        return parts[0].name if plain and self.checkpoint.tensors[parts[0].name].shape == shape else None


def free_channels(
    stored: Stored, groups: Sequence[Group], pruned: Sequence[PrunableWeight], forward: Forward, state: Tensor
) -> dict[PrunableWeight, tuple[Move, ...]]:
    """By the matrix that reads them, what moves with its inputs.

    groups: of one matrix each, those whose inputs are asked for. pruned: the block's matrices that may be touched.
    forward: through the loaded block. state: hidden states in front of it, (1, tokens, width).
    """
    found: dict[PrunableWeight, tuple[Move, ...]] = {}
    plain = [group[0] for group in groups if len(group) == 1 and group[0].expert is None]
    for reader in plain:
        writers = _writers(stored.block, reader, [each for each in pruned if each.expert is None], forward, state)
        moves = [_linear(stored, writer, reader, interleaved=found) for writer, found in writers]
        if moves and all(each is not None for each in moves):
            held = [move for each in moves if each is not None for move in each]
            found[reader] = (stored.of_matrix(reader, 1), *held)
    experts = [group[0] for group in groups if len(group) == 1 and group[0].expert is not None]
    layouts = {path: _gate_layout(stored.block, path) for path in sorted({each.module for each in experts})}
    for reader in experts:
        if own := _expert(stored, reader, pruned, layouts[reader.module]):
            found[reader] = own
    return _apart(found)


def _apart(found: dict[PrunableWeight, tuple[Move, ...]]) -> dict[PrunableWeight, tuple[Move, ...]]:
    """Without those that write for several readers."""
    moved = [(move.tensor, move.slice, move.side) for moves in found.values() for move in moves]
    return {
        reader: moves
        for reader, moves in found.items()
        if all(moved.count((move.tensor, move.slice, move.side)) == 1 for move in moves)
    }


def _linear(
    stored: Stored, writer: PrunableWeight, reader: PrunableWeight, *, interleaved: bool
) -> tuple[Move, ...] | None:
    """The matrix and its bias; None where that has no tensor of its own."""
    copies = writer.rows // reader.columns
    moves = (stored.of_matrix(writer, 0, copies, interleaved=interleaved),)
    if stored.block.module.get_submodule(writer.module).bias is None:
        return moves
    bias = stored.of_bias(f"{writer.module}.bias", (writer.rows,))
    return None if bias is None else (*moves, Move(bias, None, 0, copies, interleaved))


def _writers(
    block: Block, reader: PrunableWeight, others: Sequence[PrunableWeight], forward: Forward, state: Tensor
) -> list[tuple[PrunableWeight, bool]]:
    """The matrices that the reader's inputs come from, channel by channel, and whether each interleaves copies of
    them."""
    before = _inputs(block, reader, forward, state)
    found = []
    for writer in others:
        copies, rest = divmod(writer.rows, reader.columns)
        if writer == reader or rest or not 1 <= copies <= COPIES or len(before) != 1:
            continue
        with _changed(block, writer, reader.columns, state.shape[1] // 2) as calls:
            after = _inputs(block, reader, forward, state)
        if len(calls) == 1 and len(after) == 1:
            interleaved = _interleaved(before[0], after[0], copies, state.shape[1] // 2)
            found += [] if interleaved is None else [(writer, interleaved)]
    return found


def _interleaved(before: Tensor, after: Tensor, copies: int, token: int) -> bool | None:
    """Which channels follow the outputs that were changed; None where not just these, or none at all.

    before, after: (1, tokens, in).
    """
    if before.shape != after.shape:
        return None
    differs = (before != after).flatten(0, -2)
    if bool(differs[:token].any() | differs[token + 1 :].any()):
        return None
    return layout(differs[token], copies)


def layout(changed: Tensor, copies: int) -> bool | None:
    """Whether copies are side by side, by the channels that changed with every STEP-th output of the first copy's
    number, (in,), bool; None where the channels are not those of either form."""
    places = changed.nonzero().flatten()
    if not len(places):
        return None
    if bool((places % STEP == 1).all()):
        return False
    return (
        True if copies > 1 and bool((places % 2 == 0).all()) and bool((places < len(changed) // 2).all()) else None
    )


def _inputs(block: Block, matrix: PrunableWeight, forward: Forward, state: Tensor) -> list[Tensor]:
    """What the matrix reads, call by call."""
    seen: list[Tensor] = []
    module = block.module.get_submodule(matrix.module)
    hook = module.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    try:
        forward(state)
    finally:
        hook.remove()
    return seen


@contextmanager
def _changed(block: Block, writer: PrunableWeight, channels: int, token: int) -> Iterator[list[None]]:
    """While inside, the matrix gives one token other values for some channels. Yields a list, an entry a call."""
    calls: list[None] = []

    def change(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
        calls.append(None)
        found = output.clone()
        found[..., token, 1:channels:STEP] += 1 + found[..., token, 1:channels:STEP].abs()
        return found

    with ExitStack() as stack:
        hook = block.module.get_submodule(writer.module).register_forward_hook(change)
        stack.callback(hook.remove)
        yield calls


def _expert(
    stored: Stored, reader: PrunableWeight, pruned: Sequence[PrunableWeight], interleaved: bool | None
) -> tuple[Move, ...] | None:
    """Of one expert. interleaved: see `_gate_layout`."""
    module: Any = stored.block.module.get_submodule(reader.module)
    place = reader.expert
    if place is None or not place.activated:
        return None
    up, channels = first_parameter(module), reader.columns
    copies = 2 if module.has_gate else 1
    writers = [
        each
        for each in pruned
        if each.module == reader.module
        and each.expert is not None
        and (each.expert.parameter, each.expert.index) == (up, place.index)
    ]
    rows = [each.expert.first_row for each in writers if each.expert is not None]
    whole = sum(each.rows for each in writers) == copies * channels and not any(row % channels for row in rows)
    if interleaved is None or not whole or (interleaved and len(writers) > 1):
        return None
    moves = [stored.of_matrix(reader, 1)]
    moves += [stored.of_matrix(each, 0, each.rows // channels, interleaved=interleaved) for each in writers]
    if module.has_bias:
        shape = tuple(getattr(module, f"{up}_bias").shape)
        bias = stored.of_bias(f"{reader.module}.{up}_bias", shape)
        if bias is None or shape[1:] != (copies * channels,):
            return None
        moves.append(Move(bias, place.index, 0, copies, interleaved))
    return tuple(moves)


def _gate_layout(block: Block, path: str) -> bool | None:
    """As `layout`, by what a module of experts makes of outputs of their first product; None where it does more
    than to take channel by channel."""
    module: Any = block.module.get_submodule(path)
    channels, copies = expert_weight(module, DOWN, 0).shape[1], 2 if module.has_gate else 1
    generator = torch.Generator().manual_seed(0)
    given = torch.randn((4, copies * channels), generator=generator).to(module.down_proj.device)

    def activated(raised: Tensor) -> Tensor:
        found: Tensor = module._apply_gate(raised) if module.has_gate else module.act_fn(raised)
        return found

    changed = given.clone()
    changed[:, 1:channels:STEP] += 1
    before, after = activated(given), activated(changed)
    if before.shape != (4, channels) or (interleaved := layout((before != after).any(dim=0), copies)) is None:
        return None
    order = torch.arange(channels, device=given.device).flip(0)
    places = Move("", None, 0, copies, interleaved).places(order)
    same = torch.allclose(activated(given[:, places]), before[:, order], rtol=1e-5, atol=1e-6)
    return interleaved if same else None
