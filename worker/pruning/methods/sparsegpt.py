"""SparseGPT: input by input, the error of a removed weight is made up for by the inputs still to come
(Frantar & Alistarh 2023, arXiv 2301.00774, alg. 1)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from secateur.spec.method import Scope, SparseGptSettings
from secateur.spec.sparsity import Pattern
from worker.pruning.errors import IllConditioned
from worker.pruning.methods.damping import cholesky, with_more_damping
from worker.pruning.methods.masks import Selection, Solution
from worker.pruning.runtime.numerics import all_finite

STRIP = 32
"""Inputs eliminated one by one before their error moves on in one product: the fastest of 8 to 128 on a CPU."""


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
    scale = float(gram.diagonal().sum()) / max(int((~dead).sum()), 1) or 1.0

    def attempt(damping: float, dtype: torch.dtype) -> Tensor | None:
        damped = gram.to(dtype) / scale
        damped.diagonal().add_(damping)
        damped.diagonal()[dead] = 1.0
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
        weight[:, block] = torch.where(keep, part, 0.0).T
        mask[:, block] = keep.T
        weight[:, rest].addmm_(errors.T, factor.root[block, rest], alpha=-1)
    if not all_finite(weight):
        raise IllConditioned("the SparseGPT solution is not finite")
    return Solution(weight, mask, dict(factor.notes))


def _eliminate(
    part: Tensor, root: Tensor, keep: Tensor, dead: Tensor, pattern: Pattern, allowed: Tensor | None
) -> Tensor:
    """Remove what `keep` does not hold, input by input; n:m fills `keep` itself, group by group.

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
        for j in range(start, end):
            torch.div(part[j].masked_fill(keep[j], 0.0), root[j, j], out=errors[j])
            part[j + 1 : end].addr_(root[j, j + 1 : end], errors[j], alpha=-1)
        part[end:].addmm_(root[start:end, end:].T, errors[start:end], alpha=-1)
    return errors


def _scores(part: Tensor, diagonal: Tensor, dead: Tensor) -> Tensor:
    """|w| / U_jj as (out, inputs), below everything for dead inputs. part: (inputs, out)."""
    return (part.T / diagonal).abs().masked_fill(dead, -1.0)


def _choose(scores: Tensor, selection: Selection, zeros: list[tuple[slice, int]]) -> Tensor:
    """True where a weight of the block stays. scores: (out, inputs); zeros: how many among which rows."""
    keep = torch.ones_like(scores, dtype=torch.bool)
    factors = selection.rows if selection.scope is Scope.matrix else None
    for rows, count in zeros:
        allowed = None if selection.allowed is None else selection.allowed[rows]
        keep[rows] = Selection(Pattern(), selection.scope, count, factors, allowed).mask(scores[rows])
    return keep


def _edges(width: int, block: int, pattern: Pattern) -> list[int]:
    """Where blocks begin and end; no n:m group is cut in two."""
    if pattern.group is not None:
        block = max(block // pattern.group, 1) * pattern.group
    return [*range(0, width, block), width]


def _quotas(selection: Selection, rows: int, dead: Tensor, edges: list[int]) -> list[tuple[slice, list[int]]]:
    """For each set of rows that share a count: the zeros of every block. All of them add up to the selection's."""
    allowed = selection.allowed
    if selection.scope is Scope.matrix:
        return [(slice(0, rows), spread(selection.zeros, _ranks(dead, allowed, rows, edges)))]
    each, more = divmod(selection.zeros, rows)
    found = []
    sets = [(slice(0, more), each + 1), (slice(more, rows), each)]
    if allowed is not None:  # rows differ in what may stay, and so in where their zeros are
        sets = [(slice(row, row + 1), each + (row < more)) for row in range(rows)]
    for part, count in sets:
        if size := part.stop - part.start:
            ranks = _ranks(dead, None if allowed is None else allowed[part], 1, edges)
            found.append((part, [zeros * size for zeros in spread(count, ranks)]))
    return found


def _ranks(dead: Tensor, allowed: Tensor | None, rows: int, edges: list[int]) -> list[list[int]]:
    """Of so many rows, how many weights lie before each edge: of those that may not stay, which go first, then of
    dead inputs', then of all others. dead: (in,); allowed: (rows, in)."""
    barred = torch.zeros_like(dead, dtype=torch.int64) if allowed is None else (~allowed).sum(dim=0)
    gone = dead * (rows - barred)
    totals = [[0, *each.cumsum(0).tolist()] for each in (barred, gone, rows - barred - gone)]
    return [[total[edge] for edge in edges] for total in totals]


def spread(zeros: int, ranks: list[list[int]]) -> list[int]:
    """Zeros for every block of inputs: a rank goes after the one before, and evenly.

    ranks: see `_ranks`. The counts add up to `zeros`, and none exceeds what its block has.
    """
    before = [0] * len(ranks[0])
    for rank in ranks:
        lost = min(zeros, rank[-1])
        zeros -= lost
        before = [count + lost * here // max(rank[-1], 1) for count, here in zip(before, rank, strict=True)]
    return [after - earlier for earlier, after in pairwise(before)]
