"""Measuring a block's inputs while it runs: which matrices read the same tensor, and that tensor's statistics."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from worker.pruning.calibration.copal_sums import CopalSums
from worker.pruning.calibration.dense_prefix import PrefixGap
from worker.pruning.calibration.routed_tokens import RoutedTokens
from worker.pruning.calibration.spread import Heard, Rounds, Spread
from worker.pruning.model.experts import DOWN, listening
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.model.loading import dense_weight
from worker.pruning.model.tracing import unsupported
from worker.pruning.runtime.numerics import as_read, products_of
from worker.pruning.state.moments import Accumulator, Measured

Identity = tuple[int, int, tuple[int, ...], tuple[int, ...]]
Place = tuple[str, str, int]
"""An expert's: module, parameter, number."""
HearOutput = Callable[[PrunableWeight, Tensor, int], None]
"""Called with a matrix, a tensor that holds its outputs in the last dimension, and where there they begin."""


class AllHeard(Exception):
    """Raised inside a block once every input of interest has come by: what the block would go on to compute is
    not wanted. To be caught around each forward."""


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
    heard: tuple[PrunableWeight, ...] = (),
    stop_early: bool = False,
    gram_tokens: Mapping[str, int] | None = None,
    prefix_gap: PrefixGap | None = None,
    routed: RoutedTokens | None = None,
    spread: Spread | None = None,
) -> dict[str, Measured]:
    """Statistics of every group while `run` sends all calibration windows through the loaded block.

    copal_sums: by matrix, for those that need more than the inputs' moments. hear: told the outputs of those that
    are `heard`. stop_early: forwards after the first may end in AllHeard, which saves what comes behind the last
    input. gram_tokens: by group, for those whose Gram need not be of all tokens. prefix_gap: told every group's
    inputs as well, and alone during its dense passes, which never end early. routed: told what experts are called
    with; once it has been it takes the place of `run`, and experts alone can be measured. spread: of the block,
    where not on `device` alone. A group goes by the name of its first matrix.
    """
    limits, where = gram_tokens or {}, spread or Spread.alone(block, device)
    sums = {
        group[0].name: Accumulator(group[0].columns, where.home(group[0].name), limits.get(group[0].name))
        for group in groups
    }
    members = {group[0].name: group for group in groups}

    def add(found: Heard) -> None:
        matrix, inputs = found.matrix, found.inputs.float()
        # Statistics are float32, whatever the pass around them computes in.
        with torch.autocast(device.type, enabled=False):
            if prefix_gap is not None:
                tokens = inputs.reshape(-1, matrix.columns)
                prefix_gap.add(matrix.name, tokens, found.inputs.dtype, dense=found.dense)
            if found.dense:
                return
            with products_of(found.inputs.dtype):
                sums[matrix.name].add(inputs.reshape(-1, matrix.columns))
            for member in members[matrix.name]:
                if (sensed := (copal_sums or {}).get(member.name)) and sensed.by_token:
                    part = sensed.added(member, dense_weight(where.block(matrix.name), member), inputs)
                    sums[matrix.name].add_importance(member.name, part)

    rounds = Rounds(where, add) if len(where.blocks) > 1 else None

    def listen(matrix: PrunableWeight, inputs: Tensor) -> None:
        dense = prefix_gap is not None and prefix_gap.in_dense
        found = Heard(matrix, as_read(inputs.detach()), dense)
        if rounds is None:
            add(found)
        else:
            rounds.keep(found)

    firsts = tuple(group[0] for group in groups)
    experts = any(matrix.expert is not None for matrix in firsts)  # who is reached depends on the tokens
    with ExitStack() as stack:
        for place, own in where.blocks.items():
            if rounds is not None:
                stack.enter_context(_beginning(own, partial(rounds.begin, place), prefix_gap))
            stack.enter_context(_listening(own, firsts, listen, heard, hear, routed))
            if stop_early and not experts:
                stack.enter_context(_stopping(own, firsts, prefix_gap))
        if routed is not None and routed.complete:
            routed.repeat(block, device)
        else:
            run()
        if rounds is not None:
            rounds.end()
    if routed is not None:
        routed.complete = True
    measured = {name: accumulator.measured() for name, accumulator in sums.items()}
    return measured if prefix_gap is None else prefix_gap.put_into(measured)


@contextmanager
def _beginning(block: Block, begin: Callable[[], None], prefix_gap: PrefixGap | None) -> Iterator[None]:
    """Tell `begin` of every batch. A dense pass is of the same one as the pass before it."""

    def enter(_module: nn.Module, _args: object) -> None:
        if prefix_gap is None or not prefix_gap.in_dense:
            begin()

    handle = block.module.register_forward_pre_hook(enter)
    try:
        yield
    finally:
        handle.remove()


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
    routed: RoutedTokens | None = None,
) -> Iterator[None]:
    """Tell `listen` what every one of `matrices` reads (of those in one group of experts, only the last), and
    `hear` what every one of `heard` gives. routed: see `measure`."""
    with ExitStack() as stack:
        for matrix in matrices:
            if matrix.expert is None:
                module = block.module.get_submodule(matrix.module)
                hook = module.register_forward_pre_hook(lambda _, args, matrix=matrix: listen(matrix, args[0]))
                stack.callback(hook.remove)
        for matrix in heard:
            if hear is not None and matrix.expert is None:
                module = block.module.get_submodule(matrix.module)
                hook = module.register_forward_hook(lambda _, args, out, matrix=matrix: hear(matrix, out, 0))
                stack.callback(hook.remove)
        stack.enter_context(_listening_to_experts(block, matrices, listen, heard, hear, routed))
        yield


def _listening_to_experts(
    block: Block,
    matrices: tuple[PrunableWeight, ...],
    listen: Callable[[PrunableWeight, Tensor], None],
    heard: tuple[PrunableWeight, ...],
    hear: HearOutput | None,
    routed: RoutedTokens | None,
) -> AbstractContextManager[None]:
    """As `_listening`, of those that are experts'."""
    readers = {_place(matrix): matrix for matrix in matrices if matrix.expert is not None}
    writers: dict[Place | None, list[PrunableWeight]] = defaultdict(list)
    for matrix in heard:
        if matrix.expert is not None:
            writers[_place(matrix)].append(matrix)
    replayed = routed is not None and routed.complete

    def expert(module: str, parameter: str, index: int, inputs: Tensor, outputs: Tensor) -> None:
        if routed is not None and not replayed and parameter == DOWN:
            routed.size(module, as_read(inputs.detach()))
        if (reader := readers.get((module, parameter, index))) is not None:
            listen(reader, inputs)
        for writer in writers.get((module, parameter, index), []):
            if hear is not None and writer.expert is not None:
                hear(writer, outputs, writer.expert.first_row)

    wanted: dict[str, set[int]] = defaultdict(set)
    for place in (*readers, *writers):
        if place is not None:
            wanted[place[0]].add(place[2])
    paths = wanted.keys() | (frozenset() if routed is None else routed.paths)
    modules = {path: block.module.get_submodule(path) for path in sorted(paths)}
    if routed is None:
        return listening(modules, expert)
    return listening(modules, expert, only=wanted) if replayed else listening(modules, expert, routed.keep)


def _place(matrix: PrunableWeight) -> Place | None:
    """Where an expert's matrix is: module, parameter and expert; None for a matrix that is a module of its own."""
    return None if matrix.expert is None else (matrix.module, matrix.expert.parameter, matrix.expert.index)
