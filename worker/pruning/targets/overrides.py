"""What the overrides say about each matrix: the later one wins, field by field, and nothing is lost in silence."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import compress

from secateur.spec import regexes
from secateur.spec.method import MethodName
from secateur.spec.sparsity import Override, Pattern, Sparsity
from worker.pruning.errors import UserError
from worker.pruning.model.graph import PrunableWeight

OVERRIDES = "/sparsity/overrides"
FIELDS = ("skip", "target", "pattern", "method")


@dataclass
class ResolvedOverride:
    """What the overrides decide about one matrix. winners: field → number of the override that decides it.

    `skip`, `target` and `pattern` together say how much is removed: a later target or pattern ends a skip, a skip
    ends both, and an n:m pattern, which is a target of its own, ends a target. `method` stands by itself.
    """

    matched: list[int] = field(default_factory=list)
    winners: dict[str, int] = field(default_factory=dict)
    skip: bool = False
    target: float | None = None
    pattern: Pattern | None = None
    method: MethodName | None = None

    def apply(self, number: int, override: Override, matrix: str) -> None:
        """Apply one more override. Raises UserError when it sets a target beside an earlier n:m pattern."""
        self.matched.append(number)
        if override.skip:
            self.skip, self.target, self.pattern = True, None, None
            self._decide(number, skip=True, target=False, pattern=False)
        elif override.target is not None or override.pattern is not None:
            self._set_amount(number, override, matrix)
        if override.method is not None:
            self.method = override.method
            self._decide(number, method=True)

    @property
    def deciding(self) -> dict[str, int]:
        """`winners` without what changes nothing: a method says nothing about a matrix that is skipped."""
        return {name: number for name, number in self.winners.items() if name != "method" or not self.skip}

    def _set_amount(self, number: int, override: Override, matrix: str) -> None:
        self.skip = False
        self._decide(number, skip=False)
        if override.pattern is not None:
            self.pattern = override.pattern
            self._decide(number, pattern=True)
            if override.pattern.sparsity is not None:
                self.target = None
                self._decide(number, target=False)
                return
        if override.target is None:
            return
        if self.pattern is not None and self.pattern.sparsity is not None:
            message = (
                f"sets a target for {matrix}, whose pattern {self.pattern} comes from override "
                f'{self.winners["pattern"]}; add "pattern": "unstructured" here, or leave the target out'
            )
            raise UserError("conflicting_overrides", message, f"{OVERRIDES}/{number}/target")
        self.target = override.target
        self._decide(number, target=True)

    def _decide(self, number: int, **fields: bool) -> None:
        for name, decided in fields.items():
            if decided:
                self.winners[name] = number
            else:
                self.winners.pop(name, None)


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
    resolved = {matrix.name: ResolvedOverride() for matrix in matrices}
    for number, override in enumerate(sparsity.overrides):
        matched = matching(override, list(resolved))
        if not matched:
            example = f", such as {matrices[0].name}" if matrices else ""
            message = f"{override.says!r} matches no prunable matrix{example}"
            raise UserError("unmatched_override", message, f"{OVERRIDES}/{number}/{override.matcher}")
        for name in matched:
            resolved[name].apply(number, override, name)
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
        key = (tuple(one.matched), tuple(winners.items()))
        found.setdefault(key, Overlap(key[0], winners, [])).matrices.append(name)
    return [found[key] for key in sorted(found)]
