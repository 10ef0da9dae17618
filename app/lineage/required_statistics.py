"""Which statistics a job's final state holds, and which ones a method needs. The engine has the last word."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from app.kit.problems import FieldError
from secateur.spec.method import Copal, Method, MethodName, Mode, OutputWeighting, Reading, Target, read_method
from secateur.spec.sparsity import Allocation, Curvature


class MatrixMethod(NamedTuple):
    """What the records of the continued job say of some of its matrices."""

    block: int
    columns: int
    """Inputs. Matrices of a block that read one tensor, and share its Gram, have the same number of them."""
    method: MethodName | None
    """Which one an override names."""


def lacking(
    path: Sequence[dict[str, Any]], spec: dict[str, Any], matrices: Sequence[MatrixMethod] = ()
) -> list[FieldError]:
    """What a job needs that the state it would continue does not hold.

    path: the specs of the jobs before it, oldest first: a sum of which one job has left a part out is not whole.
    matrices: of the last one, where overrides name methods; what these leave open is the engine's to say.
    """
    mine = read_method(spec["method"])
    if mine.mode is not Mode.accumulated:
        return []
    methods = [read_method(each["method"]) for each in path]
    gram = _gram_of_matrices(methods[-1], mine, matrices) if names_methods(spec) else _gram(methods, mine)
    plain = spec["sparsity"].get("curvature") == Curvature.plain  # of weights that stay and of others alike
    solving = gram or ([] if plain else _survey(methods, mine, spec["sparsity"]["allocation"]))
    return [*solving, *_cross(methods, mine), *_output_grams(methods, mine), *_importance(methods, mine)]


def dropped(before: dict[str, Any], spec: dict[str, Any], matrices: Sequence[MatrixMethod] = ()) -> list[str]:
    """Kinds of statistics that the continued state holds and a job's own does not.

    before: the spec of the continued job. matrices: as for `lacking`.
    """
    theirs, mine = (read_method(each["method"]) for each in (before, spec))
    found: list[str] = []
    if mine.mode is Mode.accumulated:
        gone = theirs.statistics - mine.statistics
        if names_methods(spec):
            overridden = {"gram"} if _solved(theirs, matrices) - _solved(mine, matrices) else set()
            gone = gone - {"gram"} | overridden
        found = sorted(gone)
    kept = [each.get("output", {}).get("keep_domain_statistics", False) for each in (before, spec)]
    return [*found, "domain_grams"] if kept == [True, False] else found


def names_methods(spec: dict[str, Any]) -> bool:
    """Whether an override gives matrices another method than the job's; a lineage has one list of overrides."""
    return any("method" in override for override in spec["sparsity"].get("overrides", ()))


def overriding(spec: dict[str, Any], deciding: Sequence[str]) -> MethodName | None:
    """The method that a matrix's overrides name. deciding: those with an effect on it, as its record has them."""
    found = None
    for override in spec["sparsity"]["overrides"]:
        if "method" in override and (override.get("match") or override.get("regex")) in deciding:
            found = MethodName(override["method"])
    return found


def _solved(method: Method, matrices: Sequence[MatrixMethod]) -> set[tuple[int, int]]:
    """Blocks and numbers of inputs where some matrix is solved for, as far as the Gram of its group is kept."""
    return {(each.block, each.columns) for each in matrices if method.named(each.method).updates_weights}


def _asking(method: Method) -> str:
    """The field by which a method that changes the kept weights asks for that."""
    return "name" if method.solves else "weight_update"


def _gram_of_matrices(theirs: Method, mine: Method, matrices: Sequence[MatrixMethod]) -> list[FieldError]:
    """Only what is certain: nothing in the matrix's block that may read the same inputs was solved for."""
    held = _solved(theirs, matrices)
    without = (each for each in matrices if (each.block, each.columns) not in held)
    missed: Iterator[MatrixMethod] = (each for each in without if mine.named(each.method).updates_weights)
    first = next(missed, None)
    if first is None:
        return []
    field = _asking(mine) if first.method in (None, mine.name) else "weight_update"
    selected = first.method or theirs.name
    message = (
        f"{_word(mine, field)!r} solves with the Gram of all domains, and the lineage kept none of matrices that "
        f"{selected!r} selected in block {first.block}; choose a method that leaves their weights as they are, or "
        "begin a new lineage"
    )
    return [FieldError(message, pointer=f"/method/{field}")]


def _gram(methods: Sequence[Method], mine: Method) -> list[FieldError]:
    without = next((each for each in methods if not each.updates_weights), None)
    if without is None or not mine.updates_weights:
        return []
    field = _asking(mine)
    message = (
        f"{_word(mine, field)!r} solves with the Gram of all domains, and the lineage's {without.name!r} without "
        "weight_update kept none; choose a method that selects only, or begin a new lineage"
    )
    return [FieldError(message, pointer=f"/method/{field}")]


def _survey(methods: Sequence[Method], mine: Method, allocation: str) -> list[FieldError]:
    """The curves of the allocation `error` are of weights that are solved for anew, or of weights that stay."""
    other = next((each for each in methods if each.updates_weights is not mine.updates_weights), None)
    if allocation != Allocation.error or other is None:
        return []
    kinds = ("stay as they are", "are solved for anew")
    field = _asking(mine if mine.updates_weights else other)
    theirs = repr(other.name) + " with weight_update admm" * (other.update is not None and not other.solves)
    message = (
        f"with {_word(mine, field)!r} weights {kinds[mine.updates_weights]}, and the lineage's allocation was "
        f"measured for weights that {kinds[other.updates_weights]}, by {theirs}; choose such a method, or begin a "
        "new lineage"
    )
    return [FieldError(message, pointer=f"/method/{field}")]


def _cross(methods: Sequence[Method], mine: Method) -> list[FieldError]:
    """What compares inputs with those behind the dense prefix is kept where weights are solved towards it."""
    without = next((each for each in methods if not each.follows_dense), None)
    if without is None or not mine.follows_dense:
        return []
    message = (
        f"{Target.prefix!r} needs how inputs differ from those behind the dense prefix in all domains, and the "
        f"lineage's {without.name!r} towards {Target.dense!r} kept none; choose {Target.dense!r}, or begin a new "
        "lineage"
    )
    return [FieldError(message, pointer="/method/target")]


def _output_grams(methods: Sequence[Method], mine: Method) -> list[FieldError]:
    """How the loss's gradients go together is kept where outputs are weighed by it."""
    without = next((each for each in methods if not each.weighs_outputs), None)
    if without is None or not mine.weighs_outputs:
        return []
    message = (
        f"{OutputWeighting.gradients!r} needs the loss's gradients in all domains, and the lineage's "
        f"{without.name!r} with {OutputWeighting.none!r} kept none; choose {OutputWeighting.none!r}, or begin a "
        "new lineage"
    )
    return [FieldError(message, pointer="/method/output_weighting")]


def _importance(methods: Sequence[Method], mine: Method) -> list[FieldError]:
    """Importances are of one reading and one perturbation; the moments serve all."""
    if mine.importance is None:
        return []
    reading, perturbation = mine.importance
    other = next((each for each in methods if _word(each, "reading") != reading), None)
    if other is not None:
        theirs = f"the reading {other.reading!r}" if isinstance(other, Copal) else repr(other.name)
        message = (
            f"{reading!r} continues importances that {theirs} did not keep; "
            f"choose {Reading.own_terms!r}, or begin a new lineage"
        )
        return [FieldError(message, pointer="/method/reading")]
    held = next((p for each in methods if (p := _word(each, "perturbation")) != perturbation), None)
    if held is None:
        return []
    message = f"is {perturbation!r}, and the lineage's importances were summed for {held!r}; choose that one"
    return [FieldError(message, pointer="/method/perturbation")]


def _word(method: Method, field: str) -> Any:
    """What a method says in a field that not every one has."""
    return getattr(method, field, None)
