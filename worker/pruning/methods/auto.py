"""`auto`: each group gets the solver and the settings that do best on windows which nothing was solved on."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeVar

import torch
from torch import Tensor

from secateur.spec.method import Method
from worker.pruning.errors import IllConditioned
from worker.pruning.methods import registry as methods
from worker.pruning.methods.candidates import CANDIDATES, Candidate
from worker.pruning.methods.masks import Selection
from worker.pruning.methods.registry import Check, Group
from worker.pruning.state.moments import Accumulated, Inputs, relative_error

MIN_ROWS: Final = 32
"""Rows of a matrix that are tried at least."""
MIN_TOKENS: Final = 32
"""Held-out tokens that must have reached a group: fewer say more about themselves than about the settings."""


@dataclass(frozen=True)
class Member:
    """One matrix of a group. dense: what it is solved from, (out, in), float32. select: a method's selection in
    this matrix. original: W0, which errors are measured against; None where `dense` is that. towards: what rows of
    it are solved towards, and their errors measured against, instead; None where there is no such target."""

    matrix: str
    dense: Tensor
    select: Callable[[Method], Selection]
    original: Tensor | None = None
    towards: Callable[[Tensor], Tensor | None] = lambda rows: None


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


def choice_of(method: Method, members: Callable[[], Sequence[Member]], inputs: Inputs, check: Check) -> Choice:
    """What the matrices of a group that ask for `method` are solved with: that, or what it chooses for them.

    members: those matrices; asked for where there is something to choose. Raises IllConditioned.
    """
    candidates = methods.SOLVERS[method.name].candidates
    if not candidates:
        return Choice((Option(method.name, method, methods.prepare(method, inputs.sums)),))
    began, asking = time.monotonic(), members()
    choice = choose(method, asking, inputs, check, candidates)
    return replace(choice, seconds=(time.monotonic() - began) / len(asking))


def choose(
    job: Method,
    members: Sequence[Member],
    inputs: Inputs,
    check: Check = lambda: None,
    candidates: Sequence[Candidate] = CANDIDATES,
) -> Choice:
    """The first candidate, and the one with the lowest held-out error if that is another.

    Each is tried on the same evenly spaced rows of every matrix, their outputs counting alike, and its error is
    summed over the matrices. A group that too few held-out tokens reach takes the first one untried. Raises
    IllConditioned when none can solve.
    """
    reached = inputs.held_out.tokens if inputs.held_out is not None else 0
    if inputs.held_out is None or reached < MIN_TOKENS:
        reason = f"{reached} held-out tokens reached this input, a choice needs {MIN_TOKENS}"
        return Choice((_whole(job, _option(job, candidates[0], inputs.sums)),), {"untried": reason})
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
    whole = tuple(_whole(job, option) for option in options)
    return Choice(whole, {"tried": tried} | ({"failed": failed} if failed else {}))


class Solved(Protocol):
    """A matrix that an option has solved as a whole."""

    @property
    def held_out_error(self) -> float | None: ...


T = TypeVar("T", bound=Solved)


def best(
    choice: Choice,
    solve: Callable[[Option], T],
    judge: Callable[[T], float | None] = lambda solved: solved.held_out_error,
) -> tuple[Option, T, dict[str, Any]]:
    """One whole matrix by every option: the one with the lowest held-out error, the first in a tie, and the notes.

    So no matrix does worse on the held-out windows than by the first option, whatever a sample of its rows said.
    solve: may raise IllConditioned, which this does when every option fails. judge: the error that counts, where
    there is something to choose.
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
    if not choice.notes:
        return *next(iter(solved.values())), {}
    whole = {label: judge(each) for label, (_, each) in solved.items()}
    chosen = min(whole, key=lambda label: _rank(whole[label]))
    option, found = solved[chosen]
    notes = {**choice.notes, "chosen": chosen, "held_out_error": whole}
    if failed:
        notes["failed"] = notes.get("failed", {}) | failed
    return option, found, {"auto": notes}


def sampled_rows(rows: int, candidates: int = len(CANDIDATES)) -> int:
    """How many rows of a matrix each candidate is tried on: all trials together see each row about once."""
    return min(rows, max(MIN_ROWS, -(-rows // candidates)))


def _option(job: Method, candidate: Candidate, sums: Accumulated) -> Option:
    method = candidate.method(job)
    return Option(candidate.label, method, methods.prepare(method, sums))


def _whole(job: Method, option: Option) -> Option:
    """As it solves whole matrices."""
    return replace(option, group=methods.with_weighing(option.group)) if job.weighs_outputs else option


def _error(option: Option, parts: Sequence[Member], held_out: Tensor, check: Check) -> float | None:
    """Summed over the matrices; None where all their outputs are zero on the held-out windows."""
    found = []
    for part in parts:
        method, dense, target = option.method, part.dense, part.towards(part.dense)
        scores, selection = methods.scores(method, part.matrix, dense, option.group), part.select(method)
        solution = methods.solve(method, part.matrix, dense, scores, option.group, selection, check, target)
        original = dense if part.original is None else part.original
        found.append(relative_error(solution.weight, original if target is None else target, held_out))
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
    return replace(member, dense=member.dense[chosen].contiguous(), select=select, original=original)
