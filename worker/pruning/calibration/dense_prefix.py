"""The same tokens behind the dense prefix, beside those behind the pruned one: what their difference has to do
with the inputs, and whose inputs are compared.

X: a group's inputs as they arrive behind the pruned blocks. Y: the same tokens' inputs in the dense model. In both
the block itself is dense.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.runtime.numerics import products_of
from worker.pruning.state.moments import Measured

Tensors = defaultdict[str, list[Tensor]]
"""By a group's name or a module's path, in the order in which they came."""


class PrefixGap:
    """Sums of YᵀX over the batches of one domain, by group, and of (Y − X)ᵀ(Y − X) where windows are held
    out.

    A batch passes the block twice: behind the pruned prefix, then, inside `dense_pass`, behind the dense one.
    """

    def __init__(self, widths: Mapping[str, int], device: Callable[[str], torch.device], *, judges: bool) -> None:
        """device: of each group's sums."""
        self.cross = {name: torch.zeros((width, width), device=device(name)) for name, width in widths.items()}
        self.gap = {name: torch.zeros_like(each) for name, each in self.cross.items()} if judges else {}
        self.in_dense = False
        self._pruned: dict[str, Tensor] = {}

    @contextmanager
    def dense_pass(self) -> Iterator[None]:
        """What is heard meanwhile is Y of the batch whose X was heard before."""
        self.in_dense = True
        try:
            yield
        finally:
            self.in_dense = False

    def add(self, name: str, inputs: Tensor, dtype: torch.dtype, *, dense: bool) -> None:
        """inputs: (tokens, in), float32, of the group of that name; other groups' are passed over. dtype: as which
        they were read. dense: heard in a `dense_pass`."""
        if name not in self.cross:
            return
        if not dense:
            self._pruned[name] = inputs.clone()  # a block may go on to write where its inputs are
            return
        pruned = self._pruned.pop(name)
        with products_of(dtype):
            self.cross[name].addmm_(inputs.T, pruned)
        if name in self.gap:
            gap = inputs - pruned
            self.gap[name].addmm_(gap.T, gap)

    def put_into(self, measured: Mapping[str, Measured]) -> dict[str, Measured]:
        """The groups' statistics with these beside them, per token. The sums are used up.

        (Y − X)ᵀX as YᵀX − XᵀX: both factors are what a layer reads, whose products are quick (see `numerics`).
        """
        self._pruned.clear()
        found = dict(measured)
        for name, cross in self.cross.items():
            tokens = max(measured[name].tokens, 1)
            gap = self.gap.get(name)
            found[name] = replace(
                found[name],
                cross=cross.div_(tokens).sub_(found[name].gram),
                gap=None if gap is None else gap.div_(tokens),
            )
        return found


def comparable_groups(
    block: Block, groups: Sequence[list[PrunableWeight]], forward: Callable[[Tensor], object], state: Tensor
) -> list[list[PrunableWeight]]:
    """Those of `groups` whose inputs behind both prefixes are compared: all but

    - those that read, token by token, nothing but what other matrices of the block gave (a Llama's down): these
      have been solved towards the dense prefix themselves, and the same gap would be made up for twice;
    - experts', which other tokens reach in the dense model;
    - those that are reached several times in one pass.

    forward: through the loaded block. state: hidden states in front of it, (1, length, width).
    """
    given: Tensors = defaultdict(list)
    first: Tensors = defaultdict(list)
    second: Tensors = defaultdict(list)
    with _listening(block, groups, first, lambda module, output: given[module].append(output.clone())):
        forward(state)
    places = {module: iter(outputs) for module, outputs in given.items()}

    def as_given(module: str, output: Tensor) -> Tensor | None:
        before = next(places.get(module, iter(())), None)
        if before is None or before.shape != output.shape:
            return None
        changed = -before
        changed[..., -1, :] = before[..., -1, :]
        return changed

    # Another text, whose last token alone gets from the block's matrices what it got before.
    with _listening(block, groups, second, as_given):
        forward(-state)
    return [group for group in groups if _compares(group[0], first, second)]


def _compares(matrix: PrunableWeight, first: Tensors, second: Tensors) -> bool:
    if matrix.expert is not None or len(first.get(matrix.name, ())) != 1 or len(second.get(matrix.name, ())) != 1:
        return False
    return not torch.equal(first[matrix.name][0][..., -1, :], second[matrix.name][0][..., -1, :])


@contextmanager
def _listening(
    block: Block,
    groups: Sequence[Sequence[PrunableWeight]],
    heard: Tensors,
    output: Callable[[str, Tensor], Tensor | None],
) -> Iterator[None]:
    """Keep what each group reads under its name, and give every matrix's outputs to `output`, which may replace
    them."""
    with ExitStack() as stack:
        for path in dict.fromkeys(matrix.module for matrix in block.matrices if matrix.expert is None):
            module = block.module.get_submodule(path)
            hook = module.register_forward_hook(lambda _, args, found, path=path: output(path, found))
            stack.callback(hook.remove)
        for matrix in (group[0] for group in groups if group[0].expert is None):
            module = block.module.get_submodule(matrix.module)
            hook = module.register_forward_pre_hook(
                lambda _, args, name=matrix.name: heard[name].append(args[0].clone())
            )
            stack.callback(hook.remove)
        yield
