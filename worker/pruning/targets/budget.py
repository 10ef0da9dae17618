"""How many weights each matrix loses: overrides, patterns, rates, and a total that is met to the weight."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from secateur.spec.method import Method, MethodName
from secateur.spec.sparsity import Pattern, Sparsity
from worker.pruning.errors import UserError
from worker.pruning.model.graph import PrunableWeight
from worker.pruning.targets.overrides import OVERRIDES, ResolvedOverride, settle


@dataclass(frozen=True)
class WeightTarget:
    """One matrix's part of the budget, and how it is to be pruned. zeros None: an override skips it."""

    matrix: PrunableWeight
    zeros: int | None
    pattern: Pattern
    method: MethodName | None = None
    """None: the job's own."""
    overrides: tuple[str, ...] = ()
    """Those that decide something here, as they were written."""
    fixed: bool = False
    """An override or a pattern fixes the rate; the others share what is left."""

    @property
    def target(self) -> float:
        return 0.0 if self.zeros is None else self.zeros / self.matrix.weights


def follows_dense(method: Method, targets: Mapping[str, WeightTarget]) -> bool:
    """Whether any matrix is solved towards the dense prefix. method: the job's."""
    return any(method.named(each.method).follows_dense for each in targets.values() if each.zeros is not None)


def weighs_outputs(method: Method, targets: Mapping[str, WeightTarget]) -> bool:
    """Whether any matrix is solved for with weighed outputs. method: the job's."""
    return any(method.named(each.method).weighs_outputs for each in targets.values() if each.zeros is not None)


@dataclass(frozen=True)
class _Need:
    """What a matrix is to lose: `share` weights if that were a whole number, from low to high in the end."""

    share: Fraction
    low: int
    high: int


def assign(
    matrices: list[PrunableWeight], sparsity: Sparsity, rates: Mapping[str, float] | None = None
) -> dict[str, WeightTarget]:
    """Zeros, pattern and method of every matrix, by name.

    rates: the wanted sparsity of each free matrix (one with no target and no n:m pattern; others are not looked
    at). They are moved together until the total is the target, see `rescale`. None: all the same.
    Raises UserError for overrides without effect and for budgets that cannot be met, ValueError for missing rates.
    """
    resolved = settle(matrices, sparsity)
    kept = [matrix for matrix in matrices if not resolved[matrix.name].skip]
    if not kept:
        raise UserError("nothing_to_prune", "the overrides skip every matrix", OVERRIDES)
    zeros = _count(kept, resolved, sparsity, rates)
    return {matrix.name: _share(matrix, zeros, resolved[matrix.name], sparsity) for matrix in matrices}


def is_fixed(override: ResolvedOverride, sparsity: Sparsity) -> bool:
    """Whether the matrix's rate is its own: a target, or a pattern that means one."""
    return override.target is not None or (override.pattern or sparsity.pattern).sparsity is not None


def rescale(rates: Mapping[str, Fraction], weights: Mapping[str, int], total: Fraction) -> dict[str, Fraction]:
    """Zeros of each matrix, not yet whole, that sum to `total`; 0 ≤ total ≤ Σ weights.

    Where the rates ask for too much, all sparsities shrink by one factor; where they ask for too little, all
    densities do. So the order of the rates stays, and none leaves [0, 1]. Rates beyond these bounds are first cut.
    """
    wanted = {name: min(max(rate, Fraction(0)), Fraction(1)) * weights[name] for name, rate in rates.items()}
    have, room = sum(wanted.values(), Fraction(0)), sum(weights[name] for name in rates)
    if have >= total:
        factor = total / have if have else Fraction(0)
        return {name: value * factor for name, value in wanted.items()}
    factor = (room - total) / (room - have)
    return {name: weights[name] - (weights[name] - value) * factor for name, value in wanted.items()}


def exact(number: float) -> Fraction:
    """The decimal number that was written, not the nearest binary one: 0.1 is a tenth."""
    return Fraction(str(number))


def _share(
    matrix: PrunableWeight, zeros: dict[str, int], override: ResolvedOverride, sparsity: Sparsity
) -> WeightTarget:
    deciding = sorted(set(override.deciding.values()))
    return WeightTarget(
        matrix=matrix,
        zeros=zeros.get(matrix.name),
        pattern=override.pattern or sparsity.pattern,
        method=override.method,
        overrides=tuple(sparsity.overrides[number].says for number in deciding),
        fixed=is_fixed(override, sparsity),
    )


def _count(
    matrices: list[PrunableWeight],
    resolved: dict[str, ResolvedOverride],
    sparsity: Sparsity,
    rates: Mapping[str, float] | None,
) -> dict[str, int]:
    needs = {
        m.name: _fixed(m, resolved[m.name], sparsity) for m in matrices if is_fixed(resolved[m.name], sparsity)
    }
    if sparsity.pattern.sparsity is not None:
        return {name: round(need.share) for name, need in needs.items()}  # the total is what it comes to
    free = [matrix for matrix in matrices if matrix.name not in needs]
    total = round(exact(sparsity.target) * sum(matrix.weights for matrix in matrices))
    _refuse_impossible(needs, matrices, total, sparsity.target)
    weights = {matrix.name: matrix.weights for matrix in free}
    room = sum(weights.values())
    rest = min(max(total - sum((need.share for need in needs.values()), Fraction(0)), Fraction(0)), Fraction(room))
    shares = rescale(_rates(free, rates), weights, rest) if free else {}
    needs |= {name: _Need(share, 0, weights[name]) for name, share in shares.items()}
    return _round({matrix.name: needs[matrix.name] for matrix in matrices}, total)


def _rates(free: list[PrunableWeight], rates: Mapping[str, float] | None) -> dict[str, Fraction]:
    if rates is None:
        return {matrix.name: Fraction(1, 2) for matrix in free}
    unknown = [matrix.name for matrix in free if not math.isfinite(rates.get(matrix.name, math.nan))]
    if unknown:
        raise ValueError(f"no finite rate for {unknown[0]} ({len(unknown)} matrices in all)")
    return {matrix.name: exact(rates[matrix.name]) for matrix in free}


def _fixed(matrix: PrunableWeight, override: ResolvedOverride, sparsity: Sparsity) -> _Need:
    pattern = override.pattern or sparsity.pattern
    if pattern.kept is None or pattern.group is None:
        share = exact(override.target or 0.0) * matrix.weights
        return _Need(share, math.floor(share), math.ceil(share))
    if matrix.columns % pattern.group:
        message = f"{matrix.name} has {matrix.columns} inputs, which {pattern} does not divide; skip it"
        number = override.winners.get("pattern")
        pointer = "/sparsity/pattern" if number is None else f"{OVERRIDES}/{number}/pattern"
        raise UserError("pattern_does_not_fit", message, pointer)
    zeros = matrix.weights // pattern.group * (pattern.group - pattern.kept)
    return _Need(Fraction(zeros), zeros, zeros)


def _refuse_impossible(fixed: dict[str, _Need], matrices: list[PrunableWeight], total: int, target: float) -> None:
    """Say what would be possible: the rate that the free matrices would need, and the targets within reach."""
    count = sum(matrix.weights for matrix in matrices)
    room = sum(matrix.weights for matrix in matrices if matrix.name not in fixed)
    low = sum(need.low for need in fixed.values())
    high = sum(need.high for need in fixed.values()) + room
    if low <= total <= high:
        return
    share = sum((need.share for need in fixed.values()), Fraction(0))
    least, most = float(share / count), float((share + room) / count)
    if room:
        message = (
            f"the target {target} cannot be met: the matrices that the overrides leave free would need a sparsity "
            f"of {float((total - share) / room):.4f}; targets from {least:.4f} to {most:.4f} are possible"
        )
    else:
        message = (
            f"the overrides fix every matrix, which makes a sparsity of {least:.4f} in all; make that the target "
            f"instead of {target}, or leave some matrices free"
        )
    raise UserError("impossible_budget", message, OVERRIDES)


def _round(needs: dict[str, _Need], total: int) -> dict[str, int]:
    """Largest remainder: floors of the shares, then one more where the fraction lost was largest, within bounds.

    needs: with Σ low ≤ total ≤ Σ high. Ties go to the first.
    """
    zeros = {name: max(int(need.share), need.low) for name, need in needs.items()}
    order = sorted(needs, key=lambda name: zeros[name] - needs[name].share)
    missing = total - sum(zeros.values())
    step = 1 if missing > 0 else -1
    while missing:
        for name in order:
            if missing and needs[name].low <= zeros[name] + step <= needs[name].high:
                zeros[name] += step
                missing -= step
    return zeros
