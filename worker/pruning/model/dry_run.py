"""Each block run on its own with random weights, before any weight is read: whether it is a function of its hidden
states, and which of its linear layers it calls.

So a plan and a job know the same. A block whose linear layers see what they read can be pruned whatever it is made
of: attention, a convolution, or a recurrence over the window's own positions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.pytorch_utils import Conv1D

from worker.machine_errors import trouble_of
from worker.pruning.errors import UserError
from worker.pruning.model.experts import (
    count_experts,
    expert_weight,
    first_parameter,
    fused,
    is_experts,
    run_experts,
)
from worker.pruning.model.tracing import Call, Traceable, difference, stand_ins, unsupported, unsupported_run


@torch.no_grad()
def called_layers(graph: Traceable, calls: Sequence[Call]) -> list[frozenset[str]]:
    """For every block, the paths in it of the linear layers that it calls.

    calls: what each block is called with, on the CPU. Equal blocks are run once. Raises UserError
    `unsupported_model` for a block that does not run on its own, or that leaves something behind for its next call
    or for another block.
    """
    known: dict[object, frozenset[str]] = {}
    found = []
    for block, call in zip(graph.blocks, calls, strict=True):
        kind = _kind(block.module, call)
        if kind not in known:
            known[kind] = _run(block.prefix, block.module, call)
        found.append(known[kind])
    return found


def linear_layers(block: nn.Module) -> dict[str, nn.Module]:
    return {path: part for path, part in block.named_modules() if isinstance(part, nn.Linear | Conv1D)}


def _kind(block: nn.Module, call: Call) -> object:
    """Equal for blocks that do the same: of the same parts in the same shapes, with the same settings.

    The number by which a part knows its layer is left out; what follows from it is another setting of the part.
    """
    parts = []
    for path, part in block.named_modules():
        shapes = tuple((name, tuple(value.shape)) for name, value in part.named_parameters(recurse=False))
        settings = tuple(
            (name, value)
            for name, value in sorted(vars(part).items())
            if isinstance(value, bool | float | str) or (isinstance(value, int) and "idx" not in name)
        )
        parts.append((path, type(part), shapes, settings))
    return tuple(parts), tuple(sorted(call.named(block)))


def _run(prefix: str, block: nn.Module, call: Call) -> frozenset[str]:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(call.shape, generator=generator) for _ in range(2))
    given = _contents(call.named(block))
    _refuse_cache(prefix, given)
    try:
        with stand_ins(block.modules()), _counting(linear_layers(block)) as called:
            before, _, after = (call.run(block, hidden) for hidden in (one, other, one))
            _check_experts(prefix, block, generator)
    except UserError:
        raise
    except Exception as error:  # a model's own code may raise anything
        if trouble_of(error) is not None:
            raise
        raise unsupported_run(block, error) from error
    if before.shape != one.shape:
        raise unsupported(f"{prefix} gives hidden states of another shape than it gets")
    if not _close(before, after):
        raise unsupported(f"{prefix} gives other outputs when it is called again: it keeps a state between calls")
    if (name := difference("", given, _contents(call.named(block)))) is not None:
        raise unsupported(f"{prefix} writes into its argument {name}, where another block may read it")
    return frozenset(called)


def _check_experts(prefix: str, block: nn.Module, generator: torch.Generator) -> None:
    """Hold the products that are measured, expert after expert, against what their module makes of its inputs."""
    for path, part in block.named_modules():
        if is_experts(part) and not fused(part):
            width, last = expert_weight(part, first_parameter(part), 0).shape[1], count_experts(part) - 1
            tokens = torch.randn((4, width), generator=generator)
            chosen, weights = torch.tensor([[0, last]] * 4), torch.rand((4, 2), generator=generator)
            result = run_experts(part, lambda *_: None, tokens, chosen, weights)
            if not _close(result, part(tokens, chosen, weights)):
                raise unsupported(f"{prefix}.{path} does more to its experts than their two products")


@contextmanager
def _counting(layers: Mapping[str, nn.Module]) -> Iterator[set[str]]:
    called: set[str] = set()

    def note(path: str) -> Callable[..., None]:
        return lambda *_: called.add(path)

    handles = [part.register_forward_hook(note(path)) for path, part in layers.items()]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _contents(value: Any) -> Any:
    """A copy of what is given that later writes do not reach."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _contents(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_contents(each) for each in value]
    return value


def _refuse_cache(prefix: str, value: Any) -> None:
    if isinstance(value, Cache):
        raise unsupported(f"{prefix} is given a cache ({type(value).__name__}), which would go from text to text")
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for part in parts:
        _refuse_cache(prefix, part)


def _close(one: Tensor, other: Tensor) -> bool:
    """Up to the order of sums. What is not a number is equal to itself."""
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)
