"""What a layer's input looked like on the calibration text, and the sums kept from domain to domain.

A group is the set of matrices that read one input. Measured: one domain. Accumulated: all domains so far, each
divided by its own number of tokens, so that a long domain does not outvote a short one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from worker.pruning.runtime.numerics import all_finite
from worker.pruning.runtime.waiting import settled

STRIPS = 4
PARTS = 16
"""Of a large Gram's rows, handled one after the other where a whole second Gram is not worth its memory. Their
number does not grow with the Gram: each costs a GPU some launches."""
FEWEST = 512
"""Rows in such a part at least: a small Gram, such as an expert's, is handled in one."""


@dataclass(frozen=True)
class Measured:
    """One domain's statistics of one group, per token, of its inputs as the layers read them (`groups.as_read`).

    gram: XᵀX / tokens, (in, in), float32; of the first tokens only, where nothing is solved with it. mean: (in,),
    float32. importance: per matrix (out, in), what a reading of COPAL sums up, / tokens (see `methods.copal`);
    none where the scores come from the moments. squares: E x² of all tokens, (in,), where the Gram is of a part.
    share: how much of a domain they count as, below 1 for few tokens of an expert (see `expert_fallback`). cross,
    gap: (Y − X)ᵀX and (Y − X)ᵀ(Y − X) / tokens, (in, in), Y being the inputs of the same tokens behind the dense
    prefix; None where these are not compared (see `dense_prefix`).
    """

    gram: Tensor
    mean: Tensor
    tokens: int
    importance: dict[str, Tensor]
    squares: Tensor | None = None
    share: float = 1
    cross: Tensor | None = None
    gap: Tensor | None = None

    @property
    def second(self) -> Tensor:
        """E x², (in,)."""
        return self.gram.diagonal().clone() if self.squares is None else self.squares

    @property
    def finite(self) -> bool:
        return all_finite(*self.parts)

    @property
    def parts(self) -> list[Tensor]:
        """What is finite where the inputs are."""
        return [part for part in (self.gram, self.squares, self.cross, self.gap) if part is not None]


@dataclass(frozen=True)
class Inputs:
    """What is known of one group's inputs.

    sums: what is solved on. measured: this domain's part of them, None where it has none. held_out: the windows of
    this domain that are in neither, None when there are none. alone: see `alone`; None where that is what the sums
    are.
    """

    sums: "Accumulated"
    measured: Measured | None
    held_out: Measured | None
    alone: "Accumulated | None" = None

    @property
    def solved_on(self) -> Tensor | None:
        """The Gram that errors are measured by beside the one of windows held out, (in, in), on any scale: this
        domain's, or of all where it has none; None where that was not kept."""
        return self.sums.gram if self.measured is None else self.measured.gram


@dataclass(frozen=True)
class Accumulated:
    """Σ over domains. gram is None for methods that never solve with it; shift is Σ E dx², with dx = x − the
    unweighted mean of the earlier domains' mean inputs, and dx = x in the first domain. mean and domains count a
    domain by its `Measured.share`. cross: of the inputs that are compared with those behind the dense prefix."""

    gram: Tensor | None
    second: Tensor
    shift: Tensor
    mean: Tensor
    domains: float
    tokens: int
    importance: dict[str, Tensor]
    cross: Tensor | None = None

    @property
    def dead(self) -> Tensor:
        """Inputs that were never anything but zero, (in,)."""
        return self.second == 0


@dataclass(frozen=True)
class Factors:
    """What a stage multiplies the sums so far by (`keeps`) and the new domain's statistics (`weight`).

    scale: the sums after it are Σ_i (Π_{j>i} γ_j) w_i · (domain i), times this common factor.
    """

    keeps: float
    weight: float
    scale: float

    @classmethod
    def of(cls, weight: float, recency: float, before: float | None) -> "Factors":
        """before: the scale of the sums so far, None where there are none.

        Where γ > 1 what is new is divided instead: sums that grow as γ^stages would leave float32.
        """
        if before is None:
            return cls(1.0, weight, 1.0)
        if recency > 1:
            return cls(1.0, weight * (before / recency), before / recency)
        return cls(recency, weight * before, before)


def accumulate(
    previous: Accumulated | None,
    measured: Measured,
    *,
    keep_gram: bool,
    weight: float = 1.0,
    keeps: float = 1.0,
) -> Accumulated:
    """The sums after one more domain, keeps · sums + weight · measured. Its data are not needed again.

    The means and counts are of the domains as they are: every one counts once, or by its share.
    """
    weight = weight * measured.share
    second = measured.second
    shift = _shift(previous, measured)
    gram = measured.gram * weight if keep_gram else None
    cross = None if measured.cross is None else measured.cross * weight
    own = measured.importance
    if weight != 1:  # matrices of the weights' size: no copy without need
        own = {name: value * weight for name, value in own.items()}
    if previous is None:
        return Accumulated(gram, second * weight, shift * weight, measured.mean, 1, measured.tokens, own, cross)
    if cross is not None and previous.cross is not None:
        cross += previous.cross * keeps
    if gram is not None and previous.gram is not None:
        gram += previous.gram if keeps == 1 else previous.gram * keeps
    return Accumulated(
        gram=gram,
        second=previous.second * keeps + second * weight,
        shift=previous.shift * keeps + shift * weight,
        mean=previous.mean + measured.mean * measured.share,
        domains=previous.domains + measured.share,
        tokens=previous.tokens + measured.tokens,
        importance={name: value + previous.importance[name] * keeps for name, value in own.items()},
        cross=cross,
    )


def alone(previous: Accumulated | None, measured: Measured) -> Accumulated:
    """What one domain brings into the sums, by itself and at weight 1: the same whatever came before, but for dx,
    which is away from the earlier domains' mean inputs as in the sums. Tensors are the domain's own, no copies."""
    return Accumulated(
        gram=measured.gram,
        second=measured.second,
        shift=_shift(previous, measured),
        mean=measured.mean,
        domains=1,
        tokens=measured.tokens,
        importance=measured.importance,
    )


def _shift(previous: Accumulated | None, measured: Measured) -> Tensor:
    """E dx² of one domain, (in,)."""
    second = measured.second
    if previous is None or measured.share == 0:  # zeros: nothing was there to be away from any mean
        return second
    earlier = previous.mean / previous.domains
    return (second - 2 * earlier * measured.mean + earlier**2).clamp_min(0)


Statistics = TypeVar("Statistics", Inputs, Measured, Accumulated)


def on_device(found: Statistics, device: torch.device, known: dict[int, Tensor] | None = None) -> Statistics:
    """The same with all tensors on that device; what several share is copied once. known: by what they were."""
    copies = {} if known is None else known
    return replace(
        found, **{each.name: _moved(getattr(found, each.name), device, copies) for each in fields(found)}
    )


def _moved(value: Any, device: torch.device, copies: dict[int, Tensor]) -> Any:
    """No function inside another: that would hold itself, and with it all Grams, until circles are collected."""
    if isinstance(value, Tensor):
        if id(value) not in copies:
            copies[id(value)] = value.to(device)
        return copies[id(value)]
    if isinstance(value, dict):
        return {name: _moved(each, device, copies) for name, each in value.items()}
    if isinstance(value, Measured):
        return on_device(value, device, copies)
    return on_device(value, device, copies) if isinstance(value, Accumulated) else value


class Accumulator:
    """Sums of one group over the batches of one domain.

    gram_tokens: batches go into the Gram until it has so many tokens; None: all of them; 0: there is none.
    """

    def __init__(self, width: int, device: torch.device, gram_tokens: int | None = None) -> None:
        side = 0 if gram_tokens == 0 else width
        self.gram = torch.zeros((side, side), device=device)
        self.total = torch.zeros(width, device=device, dtype=torch.float64)
        self.squares = None if gram_tokens is None else torch.zeros_like(self.total)
        self.tokens = self.in_gram = 0
        self.gram_tokens = math.inf if gram_tokens is None else gram_tokens
        self.importance: dict[str, Tensor] = {}

    def add(self, inputs: Tensor) -> None:
        """inputs: (tokens, in)."""
        if self.in_gram < self.gram_tokens:
            self._add_products(inputs)
        # Within a batch torch sums in a cascade, exact enough; in float64 it would take ten times as long.
        if self.squares is not None:
            self.squares += inputs.square().sum(dim=0)
        self.total += inputs.sum(dim=0)
        self.tokens += inputs.shape[0]

    def _add_products(self, inputs: Tensor) -> None:
        # A Gram is symmetric: strips from the diagonal to the right save a third of the products.
        for rows in strips(len(self.gram)):
            self.gram[rows, rows.start :].addmm_(inputs[:, rows].T, inputs[:, rows.start :])
        self.in_gram += inputs.shape[0]

    def add_importance(self, name: str, part: Tensor) -> None:
        """part: what a batch adds to the sum of the matrix of that name, (out, in)."""
        self.importance[name] = self.importance[name].add_(part) if name in self.importance else part

    def measured(self) -> Measured:
        """The means; the sums are used up."""
        tokens = max(self.tokens, 1)
        return Measured(
            gram=mirror(self.gram).div_(max(self.in_gram, 1)),
            mean=(self.total / tokens).float(),
            tokens=self.tokens,
            importance={name: value / tokens for name, value in self.importance.items()},
            squares=None if self.squares is None else (self.squares / tokens).float(),
        )


def mirror(gram: Tensor) -> Tensor:
    """Copy the upper triangle to the lower one, in place."""
    for rows in parts_of(len(gram)):
        corner = gram[rows, rows]
        corner.copy_(corner.triu() + corner.triu(1).T)
        gram[rows.stop :, rows] = gram[rows, rows.stop :].T
    return gram


def relative_error(weight: Tensor, dense: Tensor, gram: Tensor) -> float | None:
    """‖X(W − W0)ᵀ‖² / ‖X W0ᵀ‖², from the Gram of X; None where the dense output is all zero.

    weight, dense: (out, in); gram: (in, in), on any scale.
    """
    return relative_errors(weight, dense, [gram])[0]


def relative_errors(weight: Tensor, dense: Tensor, grams: Sequence[Tensor]) -> list[float | None]:
    """The same under several Grams, which costs hardly more than under one."""
    lost = weight - dense
    forms = torch.stack([quadratic_forms(dense, grams), quadratic_forms(lost, grams)], dim=1)
    found: list[float | None] = []
    for gram, (whole, rest) in zip(grams, settled(forms).tolist(), strict=True):
        if not math.isfinite(whole + rest):
            # Squares of large inputs times squares of large weights can leave float32.
            whole, rest = (float(quadratic_forms(part.double(), [gram.double()])) for part in (dense, lost))
        found.append(max(rest / whole, 0.0) if whole > 0 else None)
    return found


def quadratic_forms(weight: Tensor, grams: Sequence[Tensor]) -> Tensor:
    """‖X Wᵀ‖² = tr(W H Wᵀ) for each Gram H, float64. weight: (out, in); grams: (in, in), symmetric.

    As Σ (WᵀW ⊙ H): all products are WᵀW's, once for all Grams, and of a symmetric matrix only those from the
    diagonal blocks to the right.
    """
    totals = torch.zeros(len(grams), dtype=torch.float64, device=weight.device)
    for rows in strips(weight.shape[1]):
        product = weight[:, rows].T @ weight[:, rows.start :]
        for index, gram in enumerate(grams):
            strip = gram[rows, rows.start :]
            last = index == len(grams) - 1
            sums = (product.mul_(strip) if last else product * strip).sum(dim=0).double()
            totals[index] += 2 * sums.sum() - sums[: rows.stop - rows.start].sum()
    return totals


def parts_of(width: int) -> list[slice]:
    """See `PARTS`."""
    return strips(width, min(PARTS, width // FEWEST + 1))


def strips(width: int, parts: int = STRIPS) -> list[slice]:
    """Rows of a Gram, in so many parts at the most."""
    step = max(-(-width // parts), 1)
    return [slice(start, min(start + step, width)) for start in range(0, width, step)]
