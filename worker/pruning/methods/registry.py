"""From a group's statistics to masks and weights: the one place that knows which method does what."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from secateur.spec.method import AdmmSettings, Alps, Copal, Method, MethodName, Mode
from worker.pruning.errors import IllConditioned
from worker.pruning.methods import admm, alps, sparsegpt
from worker.pruning.methods.admm import AdmmFactor, solve_admm
from worker.pruning.methods.alps import solve_alps
from worker.pruning.methods.candidates import CANDIDATES, Candidate
from worker.pruning.methods.copal import GRADIENT_SUMS, copal_scores
from worker.pruning.methods.magnitude import magnitude_scores
from worker.pruning.methods.masks import Selection, Solution, follows, masked
from worker.pruning.methods.output_weighting import OutputMetric, weigh_outputs
from worker.pruning.methods.sparsegpt import solve_sparsegpt, sparsegpt_scores
from worker.pruning.methods.wanda import wanda_scores
from worker.pruning.runtime.numerics import all_finite
from worker.pruning.runtime.waiting import shows_at_once
from worker.pruning.state.moments import Accumulated

Check = Callable[[], None]

SPARSEGPT_STEPS: Final = 2.0
"""Half a product with the Gram moves errors on; the steps from input to input are slower than their count."""
ALPS_STEPS: Final = 40
"""Steps until the support settles, as a rule."""


class Work(NamedTuple):
    """What a matrix costs by a method, beside measuring its error.

    products: of the matrix with a Gram. masks: how often one is selected. inverses: products of a Gram's size with
    a Gram. by_token: products of the matrix with each calibration token.
    """

    products: float = 0.0
    masks: int = 1
    inverses: float = 0.0
    by_token: float = 0.0


@dataclass(frozen=True)
class Group:
    """One group's sums and what was factored once for all its matrices.

    factor: the method's own, None for methods that only select. update: for the weight update that follows.
    weighing: for the last steps where outputs are weighed, ADMM's Gram with its ridge.
    """

    sums: Accumulated
    factor: Any = None
    update: AdmmFactor | None = None
    weighing: AdmmFactor | None = None

    @property
    def notes(self) -> dict[str, Any]:
        """Raised dampings, for the record; empty when all went well."""
        own = dict(self.factor.notes) if self.factor is not None else {}
        after = self.update.notes if self.update is not None else {}
        return own | ({"weight_update": after} if after else {})


@dataclass(frozen=True)
class Solver:
    """One row of the table below.

    Each function is given the row's own method. scores: what chooses the mask, or that the search for it starts
    from, (out, in), not negative. factorise and solve: None for a method that only selects. scores_by_factor:
    whether scores need what `factorise` gives. candidates: what a method chooses among, by whose rows its matrices
    are then scored and solved. work: what a matrix costs, of a method without candidates.
    """

    scores: Callable[[Any, str, Tensor, Group], Tensor]
    factorise: Callable[[Any, Tensor], Any] | None = None
    solve: Callable[[Any, Tensor, Group, Selection, Check], Solution] | None = None
    scores_by_factor: bool = False
    candidates: tuple[Candidate, ...] = ()
    work: Callable[[Any], Work] = lambda method: Work()


def _wanda(method: Method, matrix: str, dense: Tensor, group: Group) -> Tensor:
    return wanda_scores(dense, group.sums.second)


def _copal_work(method: Copal) -> Work:
    """By token: a response, and its product with the input; else, where there are sums at all, one product."""
    if method.importance is None:
        return Work()
    return Work(by_token=2.0) if method.reading in GRADIENT_SUMS else Work(products=1.0)


def _alps_work(method: Alps) -> Work:
    steps = min(ALPS_STEPS, method.alps.max_steps)
    return Work(steps + method.alps.polish_steps, masks=steps, inverses=steps / method.alps.update_every)


def _scores_of_a_candidate(method: Method, matrix: str, dense: Tensor, group: Group) -> Tensor:
    raise TypeError(f"{method.name} has no scores of its own: ask for those of what it chose")


def admm_work(settings: AdmmSettings) -> Work:
    """Of the search for a mask, and for the weights that stay."""
    return Work(settings.iterations + settings.polish_steps, masks=settings.mask_steps)


SOLVERS: Final = {
    MethodName.auto: Solver(_scores_of_a_candidate, candidates=CANDIDATES),
    MethodName.magnitude: Solver(lambda method, matrix, dense, group: magnitude_scores(dense)),
    MethodName.wanda: Solver(_wanda),
    MethodName.copal: Solver(
        lambda method, matrix, dense, group: copal_scores(method, matrix, dense, group.sums), work=_copal_work
    ),
    MethodName.sparsegpt: Solver(
        scores=lambda method, matrix, dense, group: sparsegpt_scores(dense, group.factor),
        factorise=lambda method, gram: sparsegpt.factorise(gram, method.sparsegpt),
        solve=lambda method, dense, group, selection, check: solve_sparsegpt(
            dense, group.factor, selection, method.sparsegpt, check
        ),
        scores_by_factor=True,
        work=lambda method: Work(SPARSEGPT_STEPS),
    ),
    MethodName.admm: Solver(
        scores=_wanda,
        factorise=lambda method, gram: admm.factorise(gram, method.admm),
        solve=lambda method, dense, group, selection, check: solve_admm(
            dense, group.factor, selection, method.admm, check=check
        ),
        work=lambda method: admm_work(method.admm),
    ),
    MethodName.alps: Solver(
        scores=_wanda,
        factorise=lambda method, gram: alps.factorise(gram, method.alps),
        solve=lambda method, dense, group, selection, check: solve_alps(
            dense, group.factor, selection, method.alps, check
        ),
        work=_alps_work,
    ),
}


def prepare(method: Method, sums: Accumulated) -> Group:
    """Factorise once for all matrices of the group. Raises IllConditioned."""
    if not method.updates_weights:
        return Group(sums)
    if sums.gram is None:
        raise IllConditioned("the statistics carried over have no Gram matrix")
    factorise = SOLVERS[method.name].factorise
    factor = factorise(method, sums.gram) if factorise else None
    update = admm.factorise(sums.gram, method.update, invert=method.searches) if method.update else None
    group = Group(sums, factor, update)
    return with_weighing(group) if method.weighs_outputs else group


def with_weighing(group: Group) -> Group:
    """The group as its matrices need it where their outputs are weighed. Raises IllConditioned."""
    assert group.sums.gram is not None  # noqa: S101 - for the type checker
    own = group.factor if isinstance(group.factor, AdmmFactor) else None
    factor = group.update or own or admm.factorise(group.sums.gram, AdmmSettings(), invert=False)
    return replace(group, weighing=factor)


def scores(method: Method, matrix: str, dense: Tensor, group: Group) -> Tensor:
    """The sensitivities that choose the mask (or that its search starts from), (out, in), not negative."""
    return SOLVERS[method.name].scores(method, matrix, dense, group)


def prepare_alone(method: Method, alone: Accumulated) -> Group:
    """What scores need of one domain alone (see `statistics.alone`), once for all matrices of the group.

    Raises IllConditioned.
    """
    solver = SOLVERS[method.name]
    if not solver.scores_by_factor or solver.factorise is None or alone.gram is None:
        return Group(alone)
    return Group(alone, solver.factorise(method, alone.gram))


def scores_alone(method: Method, matrix: str, dense: Tensor, alone: Group) -> Tensor:
    """What `scores` would be of one domain alone. Raises IllConditioned."""
    found = SOLVERS[method.name].scores(method, matrix, dense, alone)
    if not all_finite(found):
        raise IllConditioned("the domain's own sensitivities are not finite")
    return found


def solve(
    method: Method,
    matrix: str,
    dense: Tensor,
    sensitivity: Tensor,
    group: Group,
    selection: Selection,
    check: Check = lambda: None,
    target: Tensor | None = None,
    outputs: OutputMetric | None = None,
) -> Solution:
    """Mask and weights of one matrix. dense: (out, in), float32; sensitivity: its `scores`. target: what weights
    are solved towards, (out, in), float32; None: `dense`. outputs: how they are weighed at last; None: alike.

    Raises IllConditioned.
    """
    towards = dense if target is None else target
    if not all_finite(sensitivity):
        raise IllConditioned("the sensitivities are not finite")
    if selection.zeros == 0:
        return Solution(dense, torch.ones_like(dense, dtype=torch.bool), {})
    stay = method.mode is Mode.sequential or selection.allowed is not None
    if stay and _is_met(selection, dense):
        # Its zeros are enough, and what is there has no error to make up for: the solution is what it was.
        return Solution(dense, dense != 0, {})
    solution = _solved(method, matrix, dense, sensitivity, group, selection, check, towards)
    if outputs is None or group.weighing is None:
        return solution
    weight, notes = weigh_outputs(solution.weight, towards, group.weighing, solution.mask, outputs, check)
    return replace(solution, weight=weight, notes=solution.notes | {"output_weighting": notes})


def _solved(
    method: Method,
    matrix: str,
    dense: Tensor,
    sensitivity: Tensor,
    group: Group,
    selection: Selection,
    check: Check,
    towards: Tensor,
) -> Solution:
    """Each output by itself."""
    if method.searches and method.update is not None and group.update is not None:
        found = partial(_scores_of, method, matrix, dense, group)
        searched = solve_admm(towards, group.update, selection, method.update, check=check, scores=found)
        return replace(searched, notes=group.notes)
    own = SOLVERS[method.name].solve
    if own is not None:
        solution = own(method, towards, group, selection, check)
    else:
        dead = group.sums.dead
        if not shows_at_once(dead) or bool(dead.any()):
            sensitivity = sensitivity.masked_fill(dead, -1.0)
        if method.mode is Mode.sequential:
            # An earlier stage's zeros stay zero whatever is chosen: others beside them would exceed the target.
            sensitivity = sensitivity.masked_fill(dense == 0, -torch.inf)
        mask = selection.mask(sensitivity)
        solution = Solution(masked(dense, mask), mask)
    if method.update is None or group.update is None:
        return solution
    updated = solve_admm(towards, group.update, selection, method.update, solution.mask, check)
    return replace(updated, notes=solution.notes | group.notes)


def _scores_of(method: Method, matrix: str, dense: Tensor, group: Group, weight: Tensor) -> Tensor:
    """Of weights on the way from `dense` to a solution: an earlier stage's zeros stay below everything."""
    found = scores(method, matrix, weight, group)
    return found.masked_fill_(dense == 0, -torch.inf) if method.mode is Mode.sequential else found


def _is_met(selection: Selection, weight: Tensor) -> bool:
    """Whether as many weights as are to go are zero already. weight: (out, in)."""
    zeros = weight.numel() - int(torch.count_nonzero(weight))
    return zeros >= selection.zeros and follows(weight, selection.pattern)
