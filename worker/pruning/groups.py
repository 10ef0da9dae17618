"""Measuring a block's inputs while it runs: which matrices read the same tensor, and that tensor's statistics."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from worker.pruning.methods.copal import response
from worker.pruning.skeleton import Block, Matrix
from worker.pruning.statistics import Accumulator, Measured

Identity = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def dense_weight(block: Block, matrix: Matrix) -> Tensor:
    """The loaded weight as (out, in), whichever way its module stores it."""
    weight: Tensor = block.module.get_submodule(matrix.module).weight  # type: ignore[assignment]
    return weight.detach().T if matrix.transposed else weight.detach()


def find_groups(block: Block, matrices: tuple[Matrix, ...], forward: Callable[[], object]) -> list[list[Matrix]]:
    """Those of `matrices` that read the very same tensor during one `forward`, in the block's order.

    Memory address, version, shape and strides decide, never names; the tensors are held on to meanwhile, so that
    no address is used twice. A matrix that is not reached, or is reached twice, is a group of its own.
    """
    seen: dict[str, list[Tensor]] = {matrix.name: [] for matrix in matrices}
    with _listening(block, matrices, lambda matrix, inputs: seen[matrix.name].append(inputs)):
        forward()
    groups: dict[object, list[Matrix]] = {}
    for matrix in matrices:
        inputs = seen[matrix.name]
        key = _identity(inputs[0]) if len(inputs) == 1 else matrix.name
        groups.setdefault(key, []).append(matrix)
    return list(groups.values())


def _identity(tensor: Tensor) -> Identity:
    return (tensor.data_ptr(), tensor._version, tuple(tensor.shape), tuple(tensor.stride()))


def measure(
    block: Block,
    groups: list[list[Matrix]],
    run: Callable[[], None],
    device: torch.device,
    earlier_means: dict[str, Tensor | None] | None = None,
) -> dict[str, Measured]:
    """Statistics of every group while `run` sends all calibration windows through the loaded block.

    earlier_means: given for the token reading only, per group name, the earlier domains' mean input (None: no
    shift). A group goes by the name of its first matrix.
    """
    sums = {group[0].name: Accumulator(group[0].columns, device) for group in groups}
    members = {group[0].name: group for group in groups}

    def listen(matrix: Matrix, inputs: Tensor) -> None:
        flat = inputs.detach().reshape(-1, matrix.columns).float()
        sums[matrix.name].add(flat)
        if earlier_means is None:
            return
        for member in members[matrix.name]:
            moved = response(dense_weight(block, member), flat, earlier_means[matrix.name])
            sums[matrix.name].add_importance(member.name, moved, flat)

    with _listening(block, tuple(group[0] for group in groups), listen):
        run()
    return {name: accumulator.measured() for name, accumulator in sums.items()}


@contextmanager
def _listening(
    block: Block, matrices: tuple[Matrix, ...], listen: Callable[[Matrix, Tensor], None]
) -> Iterator[None]:
    handles = []
    for matrix in matrices:

        def hook(_module: nn.Module, args: tuple[Tensor, ...], matrix: Matrix = matrix) -> None:
            listen(matrix, args[0])

        handles.append(block.module.get_submodule(matrix.module).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
