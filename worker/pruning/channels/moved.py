"""A checkpoint some of whose channels are in another order: the same function, in tensors of the same shapes.

Outputs of the matrices that write a channel move together with the inputs of the one that reads it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.pruning.model.checkpoint import Checkpoint


@dataclass(frozen=True)
class Move:
    """One stored tensor that has the channels along one side.

    slice: its number along the first side, where the tensor holds several matrices; side: of what that leaves.
    copies: how often every channel is there, as in a gate and what it multiplies; one after the other, or, if
    interleaved, side by side.
    """

    tensor: str
    slice: int | None
    side: int
    copies: int = 1
    interleaved: bool = False

    def places(self, order: Tensor) -> Tensor:
        """Where each place of the side gets its values from. order: the channels' numbers, in their new order."""
        if self.interleaved:
            return (order.unsqueeze(1) * self.copies + torch.arange(self.copies, device=order.device)).flatten()
        return torch.cat([order + copy * len(order) for copy in range(self.copies)])

    def apply(self, stored: Tensor, order: Tensor) -> None:
        """Move them, in place. stored: the tensor, or its slice alone where it has several."""
        stored.copy_(stored.index_select(self.side, self.places(order)))


@dataclass(frozen=True)
class MovedChannels:
    """Those that one matrix reads. order: (in,), int64, on the CPU: place i has what was channel order[i].

    as_stored, permuted: of its dense scores, the share that its pattern removes in either order.
    """

    order: Tensor
    moves: tuple[Move, ...]
    as_stored: float
    permuted: float

    @property
    def notes(self) -> dict[str, float]:
        """For the record of the matrix."""
        return {"as_stored": self.as_stored, "permuted": self.permuted}


def moved(tensors: Mapping[str, Tensor], channels: Iterable[MovedChannels]) -> dict[str, Tensor]:
    """The tensors by name, those that move as copies."""
    found = dict(tensors)
    copied = set()
    for each in channels:
        for move in each.moves:
            if move.tensor not in copied:
                found[move.tensor] = found[move.tensor].clone()
                copied.add(move.tensor)
            stored = found[move.tensor]
            move.apply(stored if move.slice is None else stored[move.slice], each.order)
    return found


class MovedCheckpoint(Checkpoint):
    """What is read from it has its channels in their new order."""

    def __init__(self, source: Checkpoint, channels: Collection[MovedChannels]) -> None:
        super().__init__(source.folder, source.tensors)
        self._moves: dict[str, list[tuple[Move, Tensor]]] = defaultdict(list)
        for each in channels:
            for move in each.moves:
                self._moves[move.tensor].append((move, each.order))

    def read(self, names: Iterable[str], *, pinned: bool = False) -> dict[str, Tensor]:
        found = super().read(names, pinned=pinned)
        for name, tensor in found.items():
            for move, order in self._moves.get(name, ()):
                move.apply(tensor if move.slice is None else tensor[move.slice], order)
        return found

    def read_slice(self, name: str, index: int | None) -> Tensor:
        found = super().read_slice(name, index)
        for move, order in self._moves.get(name, ()):
            if move.slice == index:
                move.apply(found, order)
            elif index is None:
                move.apply(found[move.slice], order)
        return found
