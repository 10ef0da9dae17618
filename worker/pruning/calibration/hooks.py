"""Measuring a block's inputs while it runs: which matrices read the same tensor, and that tensor's statistics."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from worker.pruning.calibration.copal_sums import CopalSums
from worker.pruning.calibration.dense_prefix import PrefixGap
from worker.pruning.model.experts import expert_weight, listening
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.model.tracing import unsupported
from worker.pruning.runtime.numerics import products_of
from worker.pruning.state.moments import Accumulator, Measured

Identity = tuple[int, int, tuple[int, ...], tuple[int, ...]]
HearOutput = Callable[[PrunableWeight, Tensor, int], None]
"""Called with a matrix, a tensor that holds its outputs in the last dimension, and where there they begin."""


class AllHeard(Exception):
    """Raised inside a block once every input of interest has come by: what the block would go on to compute is
    not wanted. To be caught around each forward."""


def dense_weight(block: Block, matrix: PrunableWeight) -> Tensor:
    """The loaded weight as (out, in), whichever way its module stores it."""
    module = block.module.get_submodule(matrix.module)
    if matrix.expert is not None:
        place = matrix.expert
        return expert_weight(module, place.parameter, place.index)[place.first_row :][: matrix.rows].detach()
    weight = module.get_parameter("weight").detach()
    return weight.T if matrix.transposed else weight


def find_groups(
    block: Block, matrices: tuple[PrunableWeight, ...], forward: Callable[[], object]
) -> list[list[PrunableWeight]]:
    """Those of `matrices` that read the very same tensor during one `forward`, in the block's order.

    Memory address, version, shape and strides decide, never names; the tensors are held on to meanwhile, so that
    no address is used twice. A matrix that is reached twice is a group of its own. Experts' matrices are known by
    their place instead: an expert may see none of these tokens. Raises UserError for a layer that is not reached.
    """
    plain = tuple(matrix for matrix in matrices if matrix.expert is None)
    seen: dict[str, list[Tensor]] = {matrix.name: [] for matrix in plain}
    with _listening(block, plain, lambda matrix, inputs: seen[matrix.name].append(inputs)):
        forward()
    groups: dict[object, list[PrunableWeight]] = {}
    for matrix in matrices:
        key: object = matrix.name
        if matrix.expert is not None:
            key = (matrix.module, matrix.expert.index, matrix.expert.activated)
        elif not seen[matrix.name]:
            raise unsupported(f"{matrix.name} is not reached by the calibration windows, so it cannot be pruned")
        elif len(seen[matrix.name]) == 1:
            key = _identity(seen[matrix.name][0])
        groups.setdefault(key, []).append(matrix)
    return list(groups.values())


def _identity(tensor: Tensor) -> Identity:
    return (tensor.data_ptr(), tensor._version, tuple(tensor.shape), tuple(tensor.stride()))


def measure(
    block: Block,
    groups: list[list[PrunableWeight]],
    run: Callable[[], None],
    device: torch.device,
    copal_sums: Mapping[str, CopalSums] | None = None,
    hear: HearOutput | None = None,
    stop_early: bool = False,
    gram_tokens: Mapping[str, int] | None = None,
    prefix_gap: PrefixGap | None = None,
) -> dict[str, Measured]:
    """Statistics of every group while `run` sends all calibration windows through the loaded block.

    copal_sums: by matrix, for those that need more than the inputs' moments. hear: told every matrix's outputs as
    well. stop_early: forwards after the first may end in AllHeard, which saves what comes behind the last input.
    gram_tokens: by group, for those whose Gram need not be of all tokens. prefix_gap: told every group's inputs as
    well, and alone during its dense passes, which never end early. A group goes by the name of its first matrix.
    """
    limits = gram_tokens or {}
    sums = {group[0].name: Accumulator(group[0].columns, device, limits.get(group[0].name)) for group in groups}
    members = {group[0].name: group for group in groups}

    def listen(matrix: PrunableWeight, inputs: Tensor) -> None:
        read = as_read(inputs.detach())
        inputs = read.float()
        if prefix_gap is not None:
            with torch.autocast(device.type, enabled=False):
                prefix_gap.add(matrix.name, inputs.reshape(-1, matrix.columns))
            if prefix_gap.in_dense:
                return
        # Statistics are float32, whatever the pass around them computes in.
        with torch.autocast(device.type, enabled=False):
            with products_of(read.dtype):
                sums[matrix.name].add(inputs.reshape(-1, matrix.columns))
            for member in members[matrix.name]:
                if (sensed := (copal_sums or {}).get(member.name)) and sensed.by_token:
                    part = sensed.added(member, dense_weight(block, member), inputs)
                    sums[matrix.name].add_importance(member.name, part)

    every = tuple(matrix for group in groups for matrix in group)
    firsts = tuple(group[0] for group in groups)
    experts = any(matrix.expert is not None for matrix in firsts)  # who is reached depends on the tokens
    with _listening(block, firsts, listen, every if hear is not None else (), hear), ExitStack() as stack:
        if stop_early and not experts:
            stack.enter_context(_stopping(block, firsts, prefix_gap))
        run()
    measured = {name: accumulator.measured() for name, accumulator in sums.items()}
    return measured if prefix_gap is None else prefix_gap.put_into(measured)


def as_read(inputs: Tensor) -> Tensor:
    """A layer's inputs as it multiplies them: under autocast rounded to its dtype."""
    if torch.is_autocast_enabled(inputs.device.type):
        return inputs.to(torch.get_autocast_dtype(inputs.device.type))
    return inputs


@contextmanager
def _stopping(block: Block, matrices: tuple[PrunableWeight, ...], prefix_gap: PrefixGap | None) -> Iterator[None]:
    """Raise AllHeard in every forward but the first as soon as the modules were called as often as in that one.
    A dense pass goes to its end, because its outputs are wanted."""
    calls = 0
    wanted: int | None = None

    def enter(_module: nn.Module, _args: object) -> None:
        nonlocal calls, wanted
        if prefix_gap is not None and prefix_gap.in_dense:
            return
        wanted = calls or None if wanted is None else wanted
        calls = 0

    def count(_module: nn.Module, _args: object) -> None:
        nonlocal calls
        if prefix_gap is not None and prefix_gap.in_dense:
            return
        calls += 1
        if calls == wanted:
            calls = 0
            raise AllHeard

    with ExitStack() as stack:
        stack.callback(block.module.register_forward_pre_hook(enter).remove)
        for matrix in matrices:
            module = block.module.get_submodule(matrix.module)
            # After the hook that listens: they are called in the order of their registration.
            stack.callback(module.register_forward_pre_hook(count).remove)
        yield


@contextmanager
def _listening(
    block: Block,
    matrices: tuple[PrunableWeight, ...],
    listen: Callable[[PrunableWeight, Tensor], None],
    heard: tuple[PrunableWeight, ...] = (),
    hear: HearOutput | None = None,
) -> Iterator[None]:
    """Tell `listen` what every one of `matrices` reads (of those in one group of experts, only the last), and
    `hear` what every one of `heard` gives."""
    readers = {_place(matrix): matrix for matrix in matrices if matrix.expert is not None}
    writers: dict[tuple[str, str, int] | None, list[PrunableWeight]] = defaultdict(list)
    for matrix in heard:
        writers[_place(matrix)].append(matrix)

    def expert(module: str, parameter: str, index: int, inputs: Tensor, outputs: Tensor) -> None:
        if (reader := readers.get((module, parameter, index))) is not None:
            listen(reader, inputs)
        for writer in writers.get((module, parameter, index), []):
            if hear is not None and writer.expert is not None:
                hear(writer, outputs, writer.expert.first_row)

    with ExitStack() as stack:
        for matrix in matrices:
            if matrix.expert is None:
                module = block.module.get_submodule(matrix.module)
                hook = module.register_forward_pre_hook(lambda _, args, matrix=matrix: listen(matrix, args[0]))
                stack.callback(hook.remove)
        for matrix in writers.get(None, []):
            if hear is not None:
                module = block.module.get_submodule(matrix.module)
                hook = module.register_forward_hook(lambda _, args, out, matrix=matrix: hear(matrix, out, 0))
                stack.callback(hook.remove)
        paths = {place[0] for place in (*readers, *writers) if place is not None}
        stack.enter_context(listening({path: block.module.get_submodule(path) for path in paths}, expert))
        yield


def _place(matrix: PrunableWeight) -> tuple[str, str, int] | None:
    """Where an expert's matrix is: module, parameter and expert; None for a matrix that is a module of its own."""
    return None if matrix.expert is None else (matrix.module, matrix.expert.parameter, matrix.expert.index)
