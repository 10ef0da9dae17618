"""Some epochs of Adam over part of a module's parameters. What is not to change does not change in a bit."""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from secateur.spec.method import Refinement
from worker.pruning.model.block_runner import BATCH_TOKENS

BETAS: Final = (0.9, 0.95)
"""Of Adam: the second one is shorter than usual, because there are few steps."""
DISTILLED_COPIES: Final = 4
"""Of a piece's logits, while a loss against the dense model's probabilities is computed, with its gradient."""
SMALLEST: Final = 1e-3
"""No parameter is taken for smaller, so that what is all zeros can move."""
WINDOWS: Final = 2
"""Calibration windows of a step, if they are not too long."""


@dataclass(frozen=True)
class Tunable:
    """One parameter, float32, and which of its numbers may change, of its shape, bool; None: all of them."""

    parameter: nn.Parameter
    free: Tensor | None


def own_copies(module: nn.Module, free: Mapping[str, Tensor | None]) -> dict[str, Tunable]:
    """The named parameters of a loaded module as copies that may be changed in place: what is loaded may be the
    very memory that it was loaded from. free: by name, see `Tunable`."""
    found = {}
    for name, allowed in free.items():
        path, _, leaf = name.rpartition(".")
        copied = nn.Parameter(module.get_parameter(name).detach().clone(), requires_grad=True)
        setattr(module.get_submodule(path), leaf, copied)
        found[name] = Tunable(copied, allowed)
    return found


def windows_of_a_step(length: int) -> int:
    """Of so many tokens each."""
    return max(1, min(WINDOWS, BATCH_TOKENS // length))


def shuffled(count: int, size: int, seed: str) -> list[list[int]]:
    """The numbers below `count` in an order of chance, `size` at a time."""
    order = list(range(count))
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    return [order[start : start + size] for start in range(0, count, size)]


def cosine(rate: float, step: int, steps: int) -> float:
    """The learning rate of a step, from 0 on."""
    return rate / 2 * (1 + math.cos(math.pi * step / steps))


def tune(
    tunables: Sequence[Tunable],
    epochs: Iterable[Sequence[list[int]]],
    steps: int,
    settings: Refinement,
    add_gradients: Callable[[list[int]], None],
) -> Iterator[list[int]]:
    """Adam by what `add_gradients(windows)` leaves in the parameters. Yields each step's windows behind it; where
    there is nothing to tune, none.

    epochs: the windows of every step. steps: of all epochs together.
    """
    if not tunables:
        return
    rates = _rates(tunables, settings)
    shares = [] if settings.relative_rate is None else _shares(tunables)
    groups = [{"params": [each.parameter], "lr": rate} for each, rate in zip(tunables, rates, strict=True)]
    # Fused: each number is read and written once, which takes a third of the time, and nothing is held beside it.
    optimiser = torch.optim.Adam(groups, betas=BETAS, fused=True)
    done = 0
    for epoch in epochs:
        for windows in epoch:
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = cosine(rate, done, steps)
            add_gradients(windows)
            _hold(tunables)
            before = [each.parameter.detach().clone() for each, _ in shares]
            optimiser.step()
            for (each, share), start in zip(shares, before, strict=True):
                each.parameter.detach().copy_(start.lerp(each.parameter.detach(), share))
            optimiser.zero_grad()
            done += 1
            yield windows


def _rates(tunables: Sequence[Tunable], settings: Refinement) -> list[float]:
    """Of the first step, one a parameter: by the size of what may change, unless one rate for all is given."""
    if settings.relative_rate is None:
        assert settings.learning_rate is not None  # noqa: S101 - for the type checker
        return [settings.learning_rate] * len(tunables)
    sizes = torch.stack([_root_mean_square(each) for each in tunables]).tolist() if tunables else []
    return [settings.relative_rate * max(size, SMALLEST) for size in sizes]


def _shares(tunables: Sequence[Tunable]) -> list[tuple[Tunable, Tensor]]:
    """Of norms and biases, each number's part of a step, so that its rate is by its own size: some are thousands
    of times as large as others of one norm."""
    found = []
    for each in tunables:
        if each.parameter.dim() == 1:
            sizes = each.parameter.detach().abs().clamp_min(SMALLEST)
            found.append((each, sizes / _root_mean_square(each).clamp_min(SMALLEST)))
    return found


def _root_mean_square(tunable: Tunable) -> Tensor:
    """Of the numbers that may change, a scalar."""
    values, free = tunable.parameter.detach(), tunable.free
    if free is None:
        return values.square().mean().sqrt()
    return (values.square().masked_fill_(~free, 0.0).sum() / free.sum()).sqrt()


def _hold(tunables: Iterable[Tunable]) -> None:
    """A number whose gradient is always 0 has moments of 0 and makes steps of 0."""
    for each in tunables:
        if each.free is not None and each.parameter.grad is not None:
            # Of the bits: what is not finite times zero is not zero. Filling by a mask takes eight times as long.
            each.parameter.grad.view(torch.int32).mul_(each.free)
