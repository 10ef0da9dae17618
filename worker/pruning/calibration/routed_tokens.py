"""What a block's experts were called with: their inputs can be had again, some experts at a time, without the rest
of the block."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from worker.pruning.calibration.portions import Group
from worker.pruning.model.experts import DOWN, expert_weight
from worker.pruning.model.graph import Block
from worker.pruning.runtime import memory
from worker.pruning.runtime.hidden_states import HiddenStates, Room
from worker.pruning.runtime.numerics import as_read, products_of
from worker.pruning.state.moments import Accumulator, Measured


@contextmanager
def routed_tokens(
    portions: Sequence[Sequence[Group]], folder: Path, device: torch.device, check: Callable[[], None]
) -> Iterator["RoutedTokens | None"]:
    """Of the experts in these portions of a block, where there are several; see `RoutedTokens`."""
    paths = {group[0].module for portion in portions for group in portion if group[0].expert is not None}
    found = RoutedTokens(folder, device, paths, check) if len(portions) > 1 else None
    try:
        yield found
    finally:
        if found is not None:
            found.clear()


class RoutedTokens:
    """The calls of the modules at `paths` in one pass over the calibration windows, in a scratch file in `folder`.

    complete: all of them were heard, and are there to be repeated.
    """

    complete: bool
    _autocast: bool
    _dtype: torch.dtype

    def __init__(
        self, folder: Path, device: torch.device, paths: Collection[str], check: Callable[[], None]
    ) -> None:
        """check: called between two calls; may raise."""
        self.paths = frozenset(paths)
        self._check = check
        self.complete = self._paused = False
        self._calls: list[str] = []
        self._given = HiddenStates(folder, device, Room())
        self._squares: dict[str, Tensor] = {}
        self._numbers: dict[str, int] = defaultdict(int)
        self._pooled: dict[tuple[str, bool], Measured] = {}

    def clear(self) -> None:
        self._given.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For a pass through the block whose calls are not to be repeated."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def keep(self, path: str, given: tuple[Tensor, ...]) -> None:
        """given: tokens, (tokens, width); the experts that they go to, and these experts' weights, (tokens, k)."""
        if self._paused:
            return
        self._autocast = torch.is_autocast_enabled(given[0].device.type)
        self._dtype = torch.get_autocast_dtype(given[0].device.type)
        self._calls.append(path)
        for each in given:
            self._given.append(each.detach())

    def size(self, path: str, activations: Tensor) -> None:
        """What one expert gave to its last matrix, (tokens, width)."""
        if self._paused:
            return
        square = activations.float().square().sum().double()
        self._squares[path] = self._squares[path] + square if path in self._squares else square
        self._numbers[path] += activations.numel()

    def repeat(self, block: Block, device: torch.device) -> None:
        """Call the modules once more, in the same order."""
        for number, path in enumerate(self._calls):
            self._check()
            given = self._call(number)
            with self._as_then(device), memory.reusing():
                block.module.get_submodule(path)(*given)

    def pooled(self, block: Block, device: torch.device, path: str, activated: bool) -> Measured:
        """Of all tokens that a module was called with, each once; or of what its experts gave to their last
        matrices, of which only the size is known."""
        if (path, activated) not in self._pooled:
            found = self._white(block, path, device) if activated else self._layer(path, device)
            self._pooled[path, activated] = found
        return self._pooled[path, activated]

    def _layer(self, path: str, device: torch.device) -> Measured:
        sums: Accumulator | None = None
        for number in (number for number, each in enumerate(self._calls) if each == path):
            self._check()
            with self._as_then(device):
                read = as_read(self._given[3 * number])
            sums = sums or Accumulator(read.shape[-1], device)
            with products_of(read.dtype):
                sums.add(read.float())
        assert sums is not None  # noqa: S101 - every module of experts is called in every pass
        return sums.measured()

    def _white(self, block: Block, path: str, device: torch.device) -> Measured:
        width = expert_weight(block.module.get_submodule(path), DOWN, 0).shape[1]
        size = float(self._squares[path]) / self._numbers[path] if self._numbers[path] else 1.0
        gram = torch.eye(width, device=device) * size
        return Measured(gram, torch.zeros(width, device=device), self._numbers[path] // width, {})

    def _as_then(self, device: torch.device) -> torch.autocast:
        """The precision in which the calls were made."""
        return torch.autocast(device.type, self._dtype, self._autocast)

    def _call(self, number: int) -> list[Tensor]:
        return [self._given[3 * number + each] for each in range(3)]
