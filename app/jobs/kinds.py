"""Which statistics a job's final state holds, and which ones a method needs. The engine has the last word."""

from collections.abc import Sequence
from typing import Any, Final

from app.kit.problems import FieldError

SOLVING: Final = frozenset({"sparsegpt", "admm", "alps", "auto"})
"""Methods that solve for the kept weights, with the Gram."""
FROM_MOMENTS: Final = frozenset({"own_terms"})
"""COPAL's readings that need no more than moments, which every state has."""


def lacking(path: Sequence[dict[str, Any]], spec: dict[str, Any]) -> list[FieldError]:
    """What a job needs that the state it would go on from does not hold.

    path: the specs of the jobs before it, oldest first: a sum of which one job has left a part out is not whole.
    """
    if spec["method"]["mode"] != "accumulated":
        return []
    methods = [each["method"] for each in path]
    mine = spec["method"]
    solving = _gram(methods, mine) or _survey(methods, mine, spec["sparsity"])
    return [*solving, *_importance(methods, mine)]


def solves(method: dict[str, Any]) -> bool:
    """Whether kept weights are changed, for which a Gram is kept."""
    return method["name"] in SOLVING or method.get("weight_update") == "admm"


def _gram(methods: Sequence[dict[str, Any]], mine: dict[str, Any]) -> list[FieldError]:
    without = next((each for each in methods if not solves(each)), None)
    if without is None or not solves(mine):
        return []
    field = "name" if mine["name"] in SOLVING else "weight_update"
    message = (
        f"{mine[field]!r} solves with the Gram of all domains, and the lineage's {without['name']!r} without "
        "weight_update kept none; choose a method that selects only, or begin a new lineage"
    )
    return [FieldError(message, pointer=f"/method/{field}")]


def _survey(methods: Sequence[dict[str, Any]], mine: dict[str, Any], sparsity: dict[str, Any]) -> list[FieldError]:
    """The curves of the allocation `error` are of weights that are solved for anew, or of weights that stay."""
    other = next((each for each in methods if solves(each) != solves(mine)), None)
    if sparsity["allocation"] != "error" or other is None:
        return []
    kinds = ("stay as they are", "are solved for anew")
    message = (
        f"its weights {kinds[solves(mine)]}, and the lineage's allocation was measured for weights that "
        f"{kinds[solves(other)]}, by {other['name']!r}; choose such a method, or begin a new lineage"
    )
    return [FieldError(message, pointer="/method/name")]


def _importance(methods: Sequence[dict[str, Any]], mine: dict[str, Any]) -> list[FieldError]:
    if mine["name"] != "copal" or mine["reading"] in FROM_MOMENTS:
        return []
    other = next((each for each in methods if each.get("reading") != mine["reading"]), None)
    if other is None:
        return _perturbation(methods, mine)
    theirs = f"the reading {other['reading']!r}" if other["name"] == "copal" else repr(other["name"])
    message = (
        f"{mine['reading']!r} goes on from importances that {theirs} did not keep; "
        f"choose {' or '.join(map(repr, sorted(FROM_MOMENTS)))}, or begin a new lineage"
    )
    return [FieldError(message, pointer="/method/reading")]


def _perturbation(methods: Sequence[dict[str, Any]], mine: dict[str, Any]) -> list[FieldError]:
    """Importances are of one perturbation; the moments serve both."""
    other = next((p for each in methods if (p := each["perturbation"]) != mine["perturbation"]), None)
    if other is None:
        return []
    message = (
        f"is {mine['perturbation']!r}, and the lineage's importances were summed for {other!r}; choose that one"
    )
    return [FieldError(message, pointer="/method/perturbation")]
