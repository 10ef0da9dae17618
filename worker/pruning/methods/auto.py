"""`auto`: each group gets the solver and the settings that do best on windows which nothing was solved on."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeVar

import torch
from torch import Tensor

from secateur.spec.method import METHODS, AdmmSettings, Method, MethodName
from worker.pruning.errors import IllConditioned
from worker.pruning.methods import registry as methods
from worker.pruning.methods.masks import Selection
from worker.pruning.methods.registry import Check, Group
from worker.pruning.state.moments import Accumulated, Inputs, relative_error


@dataclass(frozen=True)
class Candidate:
    """A solver and its settings; what it does not name is as the solver's own default."""

    label: str
    name: MethodName
    settings: Mapping[str, Any] = field(default_factory=dict)

    def method(self, job: Method) -> Method:
        """In the job's mode and comparison group."""
        shared = {name: getattr(job, name) for name in ("mode", "objective", "recency", "comparison_group")}
        return METHODS[self.name](name=self.name, **shared, **self.settings)


def _admm(damping: float, rho: float) -> Candidate:
    settings = AdmmSettings(damping=damping, rho=rho)
    return Candidate(f"admm damping {damping:g} rho {rho:g}", MethodName.admm, {"admm": settings})


CANDIDATES: Final = (
    _admm(damping=0.1, rho=1.0),
    _admm(damping=0.01, rho=1.0),
    _admm(damping=0.03, rho=1.0),
    _admm(damping=0.3, rho=1.0),
    _admm(damping=1.0, rho=1.0),
    _admm(damping=0.1, rho=0.3),
    Candidate("alps", MethodName.alps),
    Candidate("sparsegpt", MethodName.sparsegpt),
)
"""The first one, ADMM as it is by default, is what the others have to beat; it wins ties. How closely a solution
fits its text is a matter of the damping; rho decides how the mask is found."""
MIN_ROWS: Final = 32
"""Rows of a matrix that are tried at least."""
MIN_TOKENS: Final = 32
"""Held-out tokens that must have reached a group: fewer say more about themselves than about the settings."""


@dataclass(frozen=True)
class Member:
    """One matrix of a group. dense: what it is solved from, (out, in), float32. select: a method's selection in
    this matrix. original: W0, which errors are measured against; None where `dense` is that."""

    matrix: str
    dense: Tensor
    select: Callable[[Method], Selection]
    original: Tensor | None = None


@dataclass(frozen=True)
class Option:
    """One way to solve a group's matrices."""

    label: str
    method: Method
    group: Group


@dataclass(frozen=True)
class Choice:
    """What a group is solved with: of several options each matrix keeps the one that `best` finds.

    notes: for the record of each of its matrices. seconds: spent on choosing, for each of them.
    """

    options: tuple[Option, ...]
    notes: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def choose(
    job: Method,
    members: Sequence[Member],
    inputs: Inputs,
    check: Check = lambda: None,
    candidates: Sequence[Candidate] = CANDIDATES,
) -> Choice:
    """The first candidate, and the one with the lowest held-out error if that is another.

    Each is tried on the same evenly spaced rows of every matrix, and its error is summed over the matrices. A
    group that too few held-out tokens reach takes the first one untried. Raises IllConditioned when none can
    solve.
    """
    reached = inputs.held_out.tokens if inputs.held_out is not None else 0
    if inputs.held_out is None or reached < MIN_TOKENS:
        reason = f"{reached} held-out tokens reached this input, a choice needs {MIN_TOKENS}"
        return Choice((_option(job, candidates[0], inputs.sums),), {"untried": reason})
    parts = [_sample(member, len(candidates)) for member in members]
    first: Option | None = None
    lowest: tuple[float, Option] | None = None
    tried: dict[str, float | None] = {}
    failed: dict[str, str] = {}
    for candidate in candidates:
        check()
        try:
            option = _option(job, candidate, inputs.sums)
            error = _error(option, parts, inputs.held_out.gram, check)
        except IllConditioned as reason:
            failed[candidate.label] = str(reason)
            continue
        tried[candidate.label] = error
        first = option if candidate is candidates[0] else first
        if lowest is None or _rank(error) < lowest[0]:
            lowest = (_rank(error), option)
    if lowest is None:
        raise IllConditioned(f"no candidate could be solved: {'; '.join(sorted(set(failed.values())))}")
    winner = lowest[1]
    options = (winner,) if first is None or first is winner else (first, winner)
    return Choice(options, {"tried": tried} | ({"failed": failed} if failed else {}))


class Solved(Protocol):
    """A matrix that an option has solved as a whole."""

    @property
    def held_out_error(self) -> float | None: ...


T = TypeVar("T", bound=Solved)


def best(choice: Choice, solve: Callable[[Option], T]) -> tuple[Option, T, dict[str, Any]]:
    """One whole matrix by every option: the one with the lowest held-out error, the first in a tie, and the notes.

    So no matrix does worse on the held-out windows than by the first option, whatever a sample of its rows said.
    solve: may raise IllConditioned, which this does when every option fails.
    """
    solved: dict[str, tuple[Option, T]] = {}
    failed: dict[str, str] = {}
    for option in choice.options:
        try:
            solved[option.label] = option, solve(option)
        except IllConditioned as error:
            if len(choice.options) == 1:
                raise
            failed[option.label] = str(error)
    if not solved:
        raise IllConditioned("; ".join(sorted(set(failed.values()))))
    option, found = min(solved.values(), key=lambda each: _rank(each[1].held_out_error))
    if not choice.notes:
        return option, found, {}
    whole = {label: each.held_out_error for label, (_, each) in solved.items()}
    notes = {**choice.notes, "chosen": option.label, "held_out_error": whole}
    if failed:
        notes["failed"] = notes.get("failed", {}) | failed
    return option, found, {"auto": notes}


def sampled_rows(rows: int, candidates: int = len(CANDIDATES)) -> int:
    """How many rows of a matrix each candidate is tried on: all trials together see each row about once."""
    return min(rows, max(MIN_ROWS, -(-rows // candidates)))


def _option(job: Method, candidate: Candidate, sums: Accumulated) -> Option:
    method = candidate.method(job)
    return Option(candidate.label, method, methods.prepare(method, sums))


def _error(option: Option, parts: Sequence[Member], held_out: Tensor, check: Check) -> float | None:
    """Summed over the matrices; None where all their outputs are zero on the held-out windows."""
    found = []
    for part in parts:
        scores = methods.scores(option.method, part.matrix, part.dense, option.group)
        selection = part.select(option.method)
        solution = methods.solve(option.method, part.matrix, part.dense, scores, option.group, selection, check)
        original = part.dense if part.original is None else part.original
        found.append(relative_error(solution.weight, original, held_out))
    known = [error for error in found if error is not None]
    return math.fsum(known) if known else None


def _rank(error: float | None) -> float:
    return math.inf if error is None else error


def _sample(member: Member, candidates: int) -> Member:
    """Evenly spaced rows, which lose the same share of their weights."""
    rows = len(member.dense)
    count = sampled_rows(rows, candidates)
    chosen = torch.arange(count, device=member.dense.device) * rows // count

    def select(method: Method) -> Selection:
        whole = member.select(method)
        # Exact for n:m, whose share is the same in every row.
        zeros = round(whole.zeros * count / rows)
        weights, allowed = (None if part is None else part[chosen] for part in (whole.rows, whole.allowed))
        return replace(whole, zeros=zeros, rows=weights, allowed=allowed)

    original = None if member.original is None else member.original[chosen].contiguous()
    return Member(member.matrix, member.dense[chosen].contiguous(), select, original)
