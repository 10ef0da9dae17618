"""How many weights each matrix loses: overrides by glob, and a total that is met to the weight."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction

from worker.pruning.errors import UserError
from worker.pruning.skeleton import Matrix
from worker.pruning.spec import Override, Sparsity


@dataclass(frozen=True)
class Share:
    """One matrix's part of the budget. zeros None: an override skips it."""

    matrix: Matrix
    zeros: int | None
    override: str | None

    @property
    def target(self) -> float:
        return 0.0 if self.zeros is None else self.zeros / self.matrix.weights


def assign(matrices: list[Matrix], sparsity: Sparsity) -> dict[str, Share]:
    """Zeros for every matrix, by name. Raises UserError for overrides without effect and impossible budgets."""
    chosen = _overrides(matrices, sparsity.overrides)
    kept = [matrix for matrix in matrices if not _skipped(chosen[matrix.name])]
    if not kept:
        raise UserError("nothing_to_prune", "the overrides skip every matrix", "/sparsity/overrides")
    if sparsity.pattern.group is not None:
        zeros = _by_pattern(kept, sparsity)
    else:
        targets = {matrix.name: _target(chosen[matrix.name]) for matrix in kept}
        zeros = _by_target(kept, targets, sparsity.target)
    shares = {}
    for matrix in matrices:
        override = chosen[matrix.name]
        shares[matrix.name] = Share(matrix, zeros.get(matrix.name), override.match if override else None)
    return shares


def _skipped(override: Override | None) -> bool:
    return override is not None and override.skip


def _target(override: Override | None) -> float | None:
    return None if override is None else override.target


def _overrides(matrices: list[Matrix], overrides: tuple[Override, ...]) -> dict[str, Override | None]:
    """The last override that matches each matrix. One that decides nothing is an error, not a shrug."""
    chosen: dict[str, Override | None] = {matrix.name: None for matrix in matrices}
    for override in overrides:
        matched = [matrix.name for matrix in matrices if fnmatchcase(matrix.name, override.match)]
        if not matched:
            message = f"{override.match!r} matches no prunable matrix, such as {matrices[0].name}"
            raise UserError("unmatched_override", message, f"{override.field}/match")
        chosen.update(dict.fromkeys(matched, override))
    for override in overrides:
        if override not in chosen.values():
            message = f"{override.match!r} has no effect: later overrides match everything it matches"
            raise UserError("shadowed_override", message, f"{override.field}/match")
    return chosen


def _by_pattern(matrices: list[Matrix], sparsity: Sparsity) -> dict[str, int]:
    pattern = sparsity.pattern
    zeros = {}
    for matrix in matrices:
        if pattern.group is None or pattern.kept is None or matrix.columns % pattern.group:
            message = f"{matrix.name} has {matrix.columns} inputs, which {pattern} does not divide; skip it"
            raise UserError("pattern_does_not_fit", message, "/sparsity/pattern")
        zeros[matrix.name] = matrix.weights // pattern.group * (pattern.group - pattern.kept)
    return zeros


def _by_target(matrices: list[Matrix], targets: dict[str, float | None], target: float) -> dict[str, int]:
    """Largest remainder: floors of the exact shares, then one more where the fraction lost was largest."""
    total = round(exact(target) * sum(matrix.weights for matrix in matrices))
    fixed = {m.name: exact(t) * m.weights for m in matrices if (t := targets[m.name]) is not None}
    free = [matrix for matrix in matrices if matrix.name not in fixed]
    rest = total - sum(fixed.values(), Fraction(0))
    weights = sum(matrix.weights for matrix in free)
    # Without free matrices only rounding is left to share, less than one weight a matrix.
    slack = len(fixed) if not free else 0
    if not -slack <= rest <= weights + slack:
        rate = f"{float(rest / weights):.4f}" if weights else "undefined"
        message = f"the overrides leave the other matrices a sparsity of {rate}; the target {target} cannot be met"
        raise UserError("impossible_budget", message, "/sparsity/overrides")
    share = {m.name: fixed.get(m.name, rest * m.weights / weights if weights else Fraction(0)) for m in matrices}
    zeros = {name: int(value) for name, value in share.items()}
    room = {matrix.name: matrix.weights for matrix in matrices}
    order = sorted(share, key=lambda name: zeros[name] - share[name])
    return _spread(zeros, order, room, total)


def _spread(zeros: dict[str, int], order: list[str], room: dict[str, int], total: int) -> dict[str, int]:
    """Hand out (or take back) the difference to `total`, one weight at a time, in order."""
    missing = total - sum(zeros.values())
    step = 1 if missing > 0 else -1
    while missing:
        before = missing
        for name in order:
            if missing and 0 <= zeros[name] + step <= room[name]:
                zeros[name] += step
                missing -= step
        if missing == before:
            raise UserError(
                "impossible_budget", "the overrides leave no room for the target", "/sparsity/overrides"
            )
    return zeros


def exact(number: float) -> Fraction:
    """The decimal number that was written, not the nearest binary one: 0.1 is a tenth."""
    return Fraction(str(number))
