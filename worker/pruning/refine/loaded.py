"""How a model's blocks are loaded while it is tuned as a whole: all of them at once, or one after another."""

from collections.abc import Callable, Iterator, Sequence
from typing import Self

from torch import Tensor, nn

from worker.pruning.model.graph import Block
from worker.pruning.model.loading import load_block
from worker.pruning.refine.tuning import Tunable, own_copies
from worker.pruning.refine.written import Tensors, free_parameters
from worker.pruning.runtime import memory
from worker.pruning.runtime.hidden_states import HiddenStates, Room
from worker.pruning.runtime.prefetch import read_ahead
from worker.pruning.state.context import StageContext

Read = Callable[[Block], Tensors]
"""A block's tensors, by the checkpoint's names."""


class Together:
    """All at once, in float32: every weight that stays changes in every step."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self.inputs: list[Tensor] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.inputs.clear()
        for block in self._context.blocks:
            self._context.runner.unload(block)
        memory.trim()

    def load(self, read: Read) -> None:
        """Take all blocks' tensors from there."""
        for block in self._context.blocks:
            load_block(block, read(block), self._context.runner.graph.names.state, self._context.device)

    def own(self, block: Block, tensors: Tensors) -> dict[str, Tunable]:
        """What may be tuned of a block, by its names in the block's module; from here on it is what passes use."""
        return own_copies(block.module, free_parameters(self._context, block, tensors))

    def passed(self, blocks: Sequence[Block]) -> Iterator[Block]:
        """Each, loaded until the next one is asked for."""
        return iter(blocks)


class Streamed:
    """One after another, as they are loaded to be pruned, and every block's inputs on disk: memory does not grow
    with blocks. For what is small of a block; what is tuned stays."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._read: Read = lambda block: {}
        self._own: dict[int, dict[str, nn.Parameter]] = {}
        self.inputs = HiddenStates(context.job.workspace, context.device, Room())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.inputs.clear()

    def load(self, read: Read) -> None:
        self._read, self._own = read, {}

    def own(self, block: Block, tensors: Tensors) -> dict[str, Tunable]:
        self._context.runner.load_block(block, tensors)
        found = own_copies(block.module, free_parameters(self._context, block, tensors))
        self._own[block.index] = {name: each.parameter for name, each in found.items()}
        self._context.runner.unload(block)
        return found

    def passed(self, blocks: Sequence[Block]) -> Iterator[Block]:
        runner = self._context.runner
        for block, tensors in read_ahead(self._read, blocks):
            runner.load_block(block, tensors)
            for path, parameter in self._own.get(block.index, {}).items():
                owner, _, name = path.rpartition(".")
                setattr(block.module.get_submodule(owner), name, parameter)
            yield block
            runner.unload(block)
        memory.trim()
