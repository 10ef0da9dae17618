"""SparseGPT: input by input, the error of a removed weight is made up for by the inputs still to come
(Frantar & Alistarh 2023, arXiv 2301.00774, alg. 1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from secateur.spec.method import Scope, SparseGptSettings
from secateur.spec.sparsity import Pattern
from worker.pruning.errors import IllConditioned
from worker.pruning.methods.damping import cholesky, with_more_damping
from worker.pruning.methods.lowest import without_lowest_of_each
from worker.pruning.methods.masks import Selection, Solution, as_numbers, masked
from worker.pruning.runtime.numerics import all_finite
from worker.pruning.runtime.waiting import shows_at_once

STRIP = 32
"""Inputs eliminated together before their error moves on in one product: the fastest of 8 to 128 on a CPU. On a
GPU every row has a system of so many inputs."""

WHOLE = 256
"""Inputs up to which a triangular matrix is inverted as a whole."""


@dataclass(frozen=True)
class SparseGptFactor:
    """What the matrices of one group share. root: U, upper triangular, (H + λI)⁻¹ = UᵀU up to a scale, (in, in).
    dead: inputs that were always zero."""

    root: Tensor
    dead: Tensor
    notes: dict[str, Any] = field(default_factory=dict)


def factorise(gram: Tensor, config: SparseGptSettings) -> SparseGptFactor:
    """The Cholesky factor of the damped inverse, once for all matrices of a group.

    gram: Σ_domains XᵀX / tokens, (in, in), float32; λ is relative to the mean diagonal of the inputs that live.
    With the order of the inputs reversed H = RRᵀ for an upper R, and U is simply R's inverse: one factorisation
    instead of factor, inverse and factor again. Raises IllConditioned.
    """
    dead = gram.diagonal() == 0
    # The scale cancels in masks and updates alike.
    scale = gram.diagonal().sum().double() / (~dead).sum().clamp_min(1)
    scale = torch.where(scale == 0, 1.0, scale)

    def attempt(damping: float, dtype: torch.dtype) -> Tensor | None:
        damped = gram.to(dtype) / scale
        damped.diagonal().add_(damping)
        damped.diagonal().masked_fill_(dead, 1.0)
        lower = cholesky(damped.flip(0, 1))
        if lower is None:
            return None
        root = inverse_of_upper(lower.flip(0, 1)).float()
        return root if all_finite(root) else None

    root, notes = with_more_damping(gram, config.damping, attempt)
    return SparseGptFactor(root, dead, notes)


def inverse_of_upper(root: Tensor) -> Tensor:
    """Of an upper triangular matrix, (in, in), half by half: a third of the work of solving for the identity."""
    width = len(root)
    if width <= WHOLE:
        eye = torch.eye(width, device=root.device, dtype=root.dtype)
        solved: Tensor = torch.linalg.solve_triangular(root, eye, upper=True)
        return solved
    first, last = slice(0, width // 2), slice(width // 2, width)
    found = torch.zeros_like(root)
    found[first, first], found[last, last] = (
        inverse_of_upper(root[first, first]),
        inverse_of_upper(root[last, last]),
    )
    found[first, last] = -found[first, first] @ (root[first, last] @ found[last, last])
    return found


def sparsegpt_scores(dense: Tensor, factor: SparseGptFactor) -> Tensor:
    """|W0| / U_jj, the root of a removal's cost once later inputs have made up for it. dense: (out, in)."""
    return (dense / factor.root.diagonal()).abs()


def solve_sparsegpt(
    dense: Tensor,
    factor: SparseGptFactor,
    selection: Selection,
    config: SparseGptSettings,
    check: Callable[[], None] = lambda: None,
) -> Solution:
    """Mask and weights, one block of inputs after another.

    dense: W0, (out, in), any float dtype. The mask of a block (n:m: of a group) is chosen when it is reached, from
    the weights as updated by then. check: called for every block, may raise. Raises IllConditioned when the
    result is not finite.
    """
    weight = dense.float().clone()
    mask = torch.ones_like(weight, dtype=torch.bool)
    edges = _edges(weight.shape[1], config.block, selection.pattern)
    quotas = _quotas(selection, len(weight), factor.dead, edges)
    allowed = selection.allowed
    for number, (start, end) in enumerate(pairwise(edges)):
        check()
        block, rest = slice(start, end), slice(end, None)
        root, dead = factor.root[block, block], factor.dead[block]
        # Inputs first: every step below reads and writes whole inputs.
        part = weight[:, block].T.contiguous()
        keep = torch.ones_like(part, dtype=torch.bool)
        if selection.pattern.group is None:
            zeros = [(rows, counts[number]) for rows, counts in quotas]
            own = selection if allowed is None else replace(selection, allowed=allowed[:, block])
            keep = _choose(_scores(part, root.diagonal(), dead), own, zeros).T.contiguous()
        errors = _eliminate(
            part, root, keep, dead, selection.pattern, None if allowed is None else allowed.T[block]
        )
        weight[:, block] = masked(part, keep).T
        mask[:, block] = keep.T
        weight[:, rest].addmm_(errors.T, factor.root[block, rest], alpha=-1)
    if not all_finite(weight):
        raise IllConditioned("the SparseGPT solution is not finite")
    return Solution(weight, mask, dict(factor.notes))


def _eliminate(
    part: Tensor, root: Tensor, keep: Tensor, dead: Tensor, pattern: Pattern, allowed: Tensor | None
) -> Tensor:
    """Remove what `keep` does not hold, strip by strip; n:m fills `keep` itself, group by group.

    part, keep: (inputs, out), changed in place; allowed: the selection's, same shape. Returns the errors w / U_jj
    of the removed weights, same shape.
    """
    errors = torch.zeros_like(part)
    strip = pattern.group or STRIP
    for start in range(0, len(part), strip):
        end = min(start + strip, len(part))
        if pattern.group is not None and pattern.kept is not None:
            scores = _scores(part[start:end], root.diagonal()[start:end], dead[start:end])
            within = None if allowed is None else allowed[start:end].T
            keep[start:end] = Selection(pattern, Scope.matrix, 0, allowed=within).mask(scores).T
        inputs = slice(start, end)
        eliminate = one_by_one if shows_at_once(part) else in_one_solve
        eliminate(part[inputs], root[inputs, inputs], keep[inputs], errors[inputs])
        part[end:].addmm_(root[start:end, end:].T, errors[start:end], alpha=-1)
    return errors


def one_by_one(part: Tensor, root: Tensor, keep: Tensor, errors: Tensor) -> None:
    """Remove a strip's inputs from it in their order, which takes three launches each. All but `root`, (inputs,
    inputs), are (inputs, out); `part` and `errors` are changed in place."""
    errors.copy_(as_numbers(~keep))
    for j in range(len(part)):
        errors[j].mul_(part[j]).div_(root[j, j])
        part[j + 1 :].addr_(root[j, j + 1 :], errors[j], alpha=-1)


def in_one_solve(part: Tensor, root: Tensor, keep: Tensor, errors: Tensor) -> None:
    """The same in a few launches for all inputs: each row's errors solve e_P U_PP = w_P, P being what it loses.

    Written as a system of all inputs: where a weight stays, U's column has its diagonal alone, and w a zero.
    """
    for start in range(0, len(part), STRIP):
        own, rest = slice(start, start + STRIP), slice(start + STRIP, None)
        upper, lost = root[own, own], ~keep[own].T
        systems = torch.where(lost.unsqueeze(1), upper, upper.diagonal().diag())
        removed = (part[own].T * as_numbers(lost)).unsqueeze(1)
        errors[own] = torch.linalg.solve_triangular(systems, removed, upper=True, left=False).squeeze(1).T
        part[own].addmm_(upper.triu(1).T, errors[own], alpha=-1)
        part[rest].addmm_(root[own, rest].T, errors[own], alpha=-1)


def _scores(part: Tensor, diagonal: Tensor, dead: Tensor) -> Tensor:
    """|w| / U_jj as (out, inputs), below everything for dead inputs. part: (inputs, out)."""
    return (part.T / diagonal).abs().masked_fill(dead, -1.0)


def _choose(scores: Tensor, selection: Selection, zeros: list[tuple[slice, int | Tensor]]) -> Tensor:
    """True where a weight of the block stays. scores: (out, inputs); zeros: see `_quotas`."""
    keep = torch.ones_like(scores, dtype=torch.bool)
    factors = selection.rows if selection.scope is Scope.matrix else None
    for rows, count in zeros:
        allowed = None if selection.allowed is None else selection.allowed[rows]
        if isinstance(count, Tensor):
            barred = ~selection.allowed if selection.allowed is not None else torch.zeros_like(keep)
            keep = without_lowest_of_each(scores.masked_fill(barred, -torch.inf), count).logical_and_(~barred)
        else:
            keep[rows] = Selection(Pattern(), selection.scope, count, factors, allowed).mask(scores[rows])
    return keep


def _edges(width: int, block: int, pattern: Pattern) -> list[int]:
    """Where blocks begin and end; no n:m group is cut in two."""
    if pattern.group is not None:
        block = max(block // pattern.group, 1) * pattern.group
    return [*range(0, width, block), width]


def _quotas(
    selection: Selection, rows: int, dead: Tensor, edges: list[int]
) -> list[tuple[slice, Sequence[int | Tensor]]]:
    """For each set of rows that share a count: the zeros of every block. Where rows differ in what may stay, and
    so in where zeros are, those of each row, (rows,). All of them add up to the selection's."""
    allowed = selection.allowed
    if selection.scope is Scope.matrix:
        barred = None if allowed is None else (~allowed).sum(dim=0, keepdim=True)
        return [(slice(0, rows), _shares(selection.zeros, _ranks(dead, barred, rows, edges)))]
    each, more = divmod(selection.zeros, rows)
    if allowed is not None:
        counts = each + (torch.arange(rows, device=dead.device) < more)
        return [(slice(0, rows), spread(counts, _ranks(dead, ~allowed, 1, edges)).unbind(dim=1))]
    found: list[tuple[slice, Sequence[int | Tensor]]] = []
    for part, count in ((slice(0, more), each + 1), (slice(more, rows), each)):
        if size := part.stop - part.start:
            found.append((part, [zeros * size for zeros in _shares(count, _ranks(dead, None, 1, edges))]))
    return found


def _ranks(dead: Tensor, barred: Tensor | None, rows: int, edges: list[int]) -> list[Tensor]:
    """Of so many rows, how many weights lie before each edge, (sets, edges): of those that may not stay, which go
    first, then of dead inputs', then of all others. dead: (in,); barred: how many may not stay, (sets, in), or
    none."""
    if barred is None:
        barred = torch.zeros_like(dead, dtype=torch.int64).unsqueeze(0)
    blocks = []
    for start, end in pairwise(edges):
        own = barred[:, start:end].long()
        gone = dead[start:end] * (rows - own)
        blocks.append([kind.sum(dim=1) for kind in (own, gone, rows - own - gone)])
    sums = (torch.stack(kind, dim=1).cumsum(dim=1) for kind in zip(*blocks, strict=True))
    return [functional.pad(each, (1, 0)) for each in sums]


def _shares(zeros: int, ranks: list[Tensor]) -> list[int]:
    """Of one set; see `spread`."""
    return spread(torch.full((1,), zeros, device=ranks[0].device), ranks)[0].tolist()


def spread(zeros: Tensor, ranks: list[Tensor]) -> Tensor:
    """Zeros for every block of inputs, (sets, blocks): a rank goes after the one before, and evenly.

    zeros: (sets,); ranks: see `_ranks`. A set's counts add up to its zeros, and none exceeds what its block has.
    """
    before = torch.zeros_like(ranks[0])
    for rank in ranks:
        lost = torch.minimum(zeros, rank[:, -1])
        zeros = zeros - lost
        before += lost.unsqueeze(1) * rank // rank[:, -1:].clamp_min(1)
    return before.diff(dim=1)
