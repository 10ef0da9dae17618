"""What the overrides say about each matrix: the later one wins, field by field, and nothing is lost in silence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import compress
from typing import Any

from secateur.spec import regexes
from secateur.spec.method import MethodName
from secateur.spec.sparsity import Override, Pattern, Sparsity
from worker.pruning.errors import UserError
from worker.pruning.model.graph import PrunableWeight

OVERRIDES = "/sparsity/overrides"
FIELDS = ("skip", "target", "pattern", "method")


@dataclass(frozen=True)
class ResolvedOverride:
    """What the overrides decide about one matrix. matched: their numbers. winners: field → number of the override
    that decides it."""

    matched: tuple[int, ...] = ()
    winners: Mapping[str, int] = field(default_factory=dict)
    skip: bool = False
    target: float | None = None
    pattern: Pattern | None = None
    method: MethodName | None = None

    @property
    def deciding(self) -> dict[str, int]:
        """`winners` without what changes nothing: a method says nothing about a matrix that is skipped."""
        return {name: number for name, number in self.winners.items() if name != "method" or not self.skip}


def _resolve(matrix: str, matching: Mapping[int, Override]) -> ResolvedOverride:
    """matching: overrides by their numbers, in order.

    `skip`, `target` and `pattern` together say how much is removed: a later target or pattern ends a skip, a skip
    ends both, and an n:m pattern, which is a target of its own, ends a target. `method` stands by itself. Raises
    UserError for a target beside an earlier n:m pattern.
    """
    decided: dict[str, tuple[int, Any]] = {}
    for number, override in matching.items():
        if override.skip:
            decided = {name: found for name, found in decided.items() if name == "method"}
            decided["skip"] = number, True
        elif override.target is not None or override.pattern is not None:
            decided.pop("skip", None)
        if override.pattern is not None:
            decided["pattern"] = number, override.pattern
        if override.pattern is not None and override.pattern.sparsity is not None:
            decided.pop("target", None)
        elif override.target is not None:
            origin, pattern = decided.get("pattern", (number, Pattern()))
            if pattern.sparsity is not None:
                message = (
                    f"sets a target for {matrix}, whose pattern {pattern} comes from override {origin}; add "
                    '"pattern": "unstructured" here, or leave the target out'
                )
                raise UserError("conflicting_overrides", message, f"{OVERRIDES}/{number}/target")
            decided["target"] = number, override.target
        if override.method is not None:
            decided["method"] = number, override.method
    winners = {name: number for name, (number, _) in decided.items()}
    return ResolvedOverride(tuple(matching), winners, **{name: value for name, (_, value) in decided.items()})


@dataclass(frozen=True)
class Overlap:
    """Overrides that match the same matrices, and which of them decides which field there."""

    overrides: tuple[int, ...]
    winners: dict[str, int]
    matrices: list[str]


def settle(matrices: list[PrunableWeight], sparsity: Sparsity) -> dict[str, ResolvedOverride]:
    """What the overrides say of every matrix, by name.

    Raises UserError for an override that matches nothing, decides nothing, or contradicts an earlier one.
    """
    matched: dict[str, dict[int, Override]] = {matrix.name: {} for matrix in matrices}
    for number, override in enumerate(sparsity.overrides):
        names = matching(override, list(matched))
        if not names:
            example = f", such as {matrices[0].name}" if matrices else ""
            message = f"{override.says!r} matches no prunable matrix{example}"
            raise UserError("unmatched_override", message, f"{OVERRIDES}/{number}/{override.matcher}")
        for name in names:
            matched[name][number] = override
    resolved = {name: _resolve(name, overrides) for name, overrides in matched.items()}
    decisive = {number for one in resolved.values() for number in one.deciding.values()}
    for number, override in enumerate(sparsity.overrides):
        if number not in decisive:
            message = (
                f"{override.says!r} has no effect: others decide everything that it sets, or skip all it is about"
            )
            raise UserError("shadowed_override", message, f"{OVERRIDES}/{number}/{override.matcher}")
    return resolved


def matching(override: Override, names: list[str]) -> list[str]:
    """Those of `names` that the override's glob or regular expression matches as a whole."""
    if override.regex is None:
        return [name for name in names if fnmatchcase(name, override.match or "")]
    return list(compress(names, regexes.matches(override.regex, regexes.column_of(names))))


def overlaps(resolved: dict[str, ResolvedOverride]) -> list[Overlap]:
    """Matrices that two or more overrides match, gathered by which overrides these are and how they ended."""
    found: dict[tuple[tuple[int, ...], tuple[tuple[str, int], ...]], Overlap] = {}
    for name, one in resolved.items():
        if len(one.matched) < 2:
            continue
        winners = {each: one.deciding[each] for each in FIELDS if each in one.deciding}
        key = (one.matched, tuple(winners.items()))
        found.setdefault(key, Overlap(key[0], winners, [])).matrices.append(name)
    return [found[key] for key in sorted(found)]
