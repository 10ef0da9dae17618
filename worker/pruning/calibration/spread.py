"""A block that several devices have: where its batches are heard, and where its groups' statistics are summed.

What a batch's modules read goes to the device of its group's sums, and is added there batch after batch: so sums
are those that one device makes, to the bit, however many there are. A batch's inputs are fewer numbers than its
products, which need not travel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worker.pruning.calibration.portions import Group
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.graph import Block, PrunableWeight


@dataclass(frozen=True)
class Spread:
    """blocks: the loaded block as each device has it that hears batches, the first one's first. homes: by group,
    the device of its sums; the first one where nothing is said."""

    blocks: Mapping[torch.device, Block]
    homes: Mapping[str, torch.device]

    @classmethod
    def alone(cls, block: Block, device: torch.device) -> "Spread":
        """On one device."""
        return cls({device: block}, {})

    @classmethod
    def over(
        cls, runner: BlockRunner, block: Block, groups: Sequence[Group], cost: Callable[[Group], float]
    ) -> "Spread":
        """On all of a runner's. Experts are mixed with each other: their sums are on the first device. cost: of a
        group, as in `shared_out`."""
        blocks = {each.device: each.own(block) for each in runner.everyone}
        others = [group for group in groups if group[0].expert is None]
        return cls(blocks, shared_out(others, runner.devices, cost))

    @property
    def first(self) -> torch.device:
        return next(iter(self.blocks))

    def home(self, group: str) -> torch.device:
        return self.homes.get(group, self.first)

    def block(self, group: str) -> Block:
        """As the device of a group's sums has it."""
        return self.blocks[self.home(group)]


def shared_out(
    groups: Sequence[Group], devices: Sequence[torch.device], cost: Callable[[Group], float]
) -> dict[str, torch.device]:
    """A device for each group, by its name: the costliest first, each to the device that has least to do."""
    load = dict.fromkeys(devices, 0.0)
    found = {}
    for group in sorted(groups, key=cost, reverse=True):
        device = min(load, key=lambda each: load[each])
        found[group[0].name] = device
        load[device] += cost(group)
    return found


class Heard(NamedTuple):
    """What a matrix has read, as it multiplies it; of the dense prefix, or of the pruned one."""

    matrix: PrunableWeight
    inputs: Tensor
    dense: bool


class Rounds:
    """What is heard of a batch on each device, handed on batch after batch once all are at work on theirs: a
    tensor's way to another device waits for what that one was told to do before."""

    def __init__(self, spread: Spread, add: Callable[[Heard], None]) -> None:
        """add: called with what was heard, on the device of its group's sums."""
        self._spread, self._add = spread, add
        self._kept: list[Heard] = []
        self._at_work: set[torch.device] = set()

    def begin(self, device: torch.device) -> None:
        """The device begins with another batch."""
        if device in self._at_work:
            self.end()
        self._at_work.add(device)

    def keep(self, heard: Heard) -> None:
        # A block may go on to write where its inputs are.
        self._kept.append(heard._replace(inputs=heard.inputs.clone()))

    def end(self) -> None:
        """Hand on what is left."""
        kept, self._kept = self._kept, []
        self._at_work.clear()
        home = self._spread.home
        for each in [each._replace(inputs=each.inputs.to(home(each.matrix.name))) for each in kept]:
            self._add(each)
