"""Which statistics a job's final state holds, and which ones a method needs. The engine has the last word."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from app.kit.problems import FieldError

SOLVING: Final = frozenset({"sparsegpt", "admm", "alps", "auto"})
"""Methods that solve for the kept weights, with the Gram."""
FROM_MOMENTS: Final = frozenset({"own_terms"})
"""COPAL's readings that need no more than moments, which every state has."""


class Place(NamedTuple):
    """What the records of the job gone on from say of some of its matrices."""

    block: int
    columns: int
    """Inputs. Matrices of a block that read one tensor, and share its Gram, have the same number of them."""
    method: str | None
    """Which one an override names."""


def lacking(
    path: Sequence[dict[str, Any]], spec: dict[str, Any], places: Sequence[Place] = ()
) -> list[FieldError]:
    """What a job needs that the state it would go on from does not hold.

    path: the specs of the jobs before it, oldest first: a sum of which one job has left a part out is not whole.
    places: of the last one's matrices, where overrides name methods; what these leave open is the engine's to say.
    """
    if spec["method"]["mode"] != "accumulated":
        return []
    methods = [each["method"] for each in path]
    mine = spec["method"]
    gram = _gram_of_places(methods[-1], mine, places) if names_methods(spec) else _gram(methods, mine)
    solving = gram or _survey(methods, mine, spec["sparsity"])
    return [*solving, *_importance(methods, mine)]


def dropped(before: dict[str, Any], spec: dict[str, Any], places: Sequence[Place] = ()) -> list[str]:
    """Kinds of statistics that the state gone on from holds and a job's own does not.

    before: the spec of the job gone on from. places: as for `lacking`.
    """
    theirs, mine = before["method"], spec["method"]
    found: list[str] = []
    if mine["mode"] == "accumulated":
        if names_methods(spec):
            gram = bool(_solved(theirs, places) - _solved(mine, places))
        else:
            gram = solves(theirs) and not solves(mine)
        importance = _keeps_importance(theirs) and not _keeps_importance(mine)
        found += [kind for kind, gone in (("gram", gram), ("importance", importance)) if gone]
    kept = [each.get("output", {}).get("keep_domain_statistics", False) for each in (before, spec)]
    return [*found, "domain_grams"] if kept == [True, False] else found


def names_methods(spec: dict[str, Any]) -> bool:
    """Whether an override gives matrices another method than the job's; a lineage has one list of overrides."""
    return any("method" in override for override in spec["sparsity"].get("overrides", ()))


def overriding(spec: dict[str, Any], deciding: Sequence[str]) -> str | None:
    """The method that a matrix's overrides name. deciding: those with an effect on it, as its record has them."""
    found = None
    for override in spec["sparsity"]["overrides"]:
        if "method" in override and (override.get("match") or override.get("regex")) in deciding:
            found = str(override["method"])
    return found


def solves(method: dict[str, Any]) -> bool:
    """Whether kept weights are changed, for which a Gram is kept."""
    return method["name"] in SOLVING or method.get("weight_update") == "admm"


def named(method: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The method of a matrix whose override names that one: by which it selects, and what comes after."""
    if name is None or name == method["name"]:
        return method
    if name == "admm":
        return {"name": name, "weight_update": "admm"}
    followed = name != "auto" and method["name"] != "admm"
    return {"name": name, "weight_update": method.get("weight_update", "none") if followed else "none"}


def _solved(method: dict[str, Any], places: Sequence[Place]) -> set[tuple[int, int]]:
    """Blocks and numbers of inputs where some matrix is solved for, as far as the Gram of its group is kept."""
    return {(each.block, each.columns) for each in places if solves(named(method, each.method))}


def _gram_of_places(theirs: dict[str, Any], mine: dict[str, Any], places: Sequence[Place]) -> list[FieldError]:
    """Only what is certain: nothing in the matrix's block that may read the same inputs was solved for."""
    held = _solved(theirs, places)
    without = (each for each in places if (each.block, each.columns) not in held)
    missed: Iterator[Place] = (each for each in without if solves(named(mine, each.method)))
    first = next(missed, None)
    if first is None:
        return []
    field = "name" if first.method in (None, mine["name"]) and mine["name"] in SOLVING else "weight_update"
    selected = first.method or theirs["name"]
    message = (
        f"{mine[field]!r} solves with the Gram of all domains, and the lineage kept none of matrices that "
        f"{selected!r} selected in block {first.block}; choose a method that leaves their weights as they are, or "
        "begin a new lineage"
    )
    return [FieldError(message, pointer=f"/method/{field}")]


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
    field = "name" if (mine if solves(mine) else other)["name"] in SOLVING else "weight_update"
    theirs = repr(other["name"]) + " with weight_update admm" * (solves(other) and other["name"] not in SOLVING)
    message = (
        f"with {mine.get(field, 'none')!r} weights {kinds[solves(mine)]}, and the lineage's allocation was "
        f"measured for weights that {kinds[solves(other)]}, by {theirs}; choose such a method, or begin a new "
        "lineage"
    )
    return [FieldError(message, pointer=f"/method/{field}")]


def _keeps_importance(method: dict[str, Any]) -> bool:
    return method["name"] == "copal" and method["reading"] not in FROM_MOMENTS


def _importance(methods: Sequence[dict[str, Any]], mine: dict[str, Any]) -> list[FieldError]:
    if not _keeps_importance(mine):
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
