"""What a continuation may say in part: the rest of a method, or of its sparsity, is the parent's."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, JsonValue

from secateur.spec.effort import PRESETS, Effort, Preset, with_preset_method
from secateur.spec.method import (
    METHODS,
    RATES,
    ComparisonGroup,
    DomainMode,
    Inputs,
    Mask,
    MethodName,
    Objective,
    OutputWeighting,
    Perturbation,
    Reading,
    Refine,
    Target,
    WeightUpdate,
)
from secateur.spec.sparsity import (
    Allocation,
    Channels,
    Curvature,
    Further,
    FurtherStatistics,
    Override,
    PatternText,
    SurveyTokens,
)
from secateur.spec.strict import Strict

Settings = dict[str, JsonValue]
"""Some of a solver's settings; they are checked with the parent's beside them."""


class MethodPart(Strict):
    """Some fields of a method. The others, also inside `admm`, `alps`, `sparsegpt` and `refinement`, are the
    parent's as long as the name is; another name begins with that method's defaults. A null says no more than
    leaving the field out, but for `recency`. Which fields a method has is as in a new job."""

    name: MethodName | None = Field(default=None, description="The parent's, or another method.")
    mode: DomainMode | None = None
    objective: Objective | None = Field(default=None, description="Takes the place of the parent's `recency`.")
    recency: float | None = Field(
        default=None,
        gt=0,
        le=4,
        description="Takes the place of the parent's `objective`; null: what the objective implies.",
    )
    weight_update: WeightUpdate | None = Field(
        default=None,
        description="With `none` the parent's `admm`, `mask`, `target` and `output_weighting` do not count.",
    )
    mask: Mask | None = None
    target: Target | None = None
    output_weighting: OutputWeighting | None = None
    comparison_group: ComparisonGroup | None = None
    inputs: Inputs | None = None
    refine: Refine | None = Field(default=None, description="Another one ends the parent's `refinement`.")
    refinement: Settings | None = None
    reading: Reading | None = None
    perturbation: Perturbation | None = None
    admm: Settings | None = None
    alps: Settings | None = None
    sparsegpt: Settings | None = None


class SparsityPart(Strict):
    """Some fields of the sparsity. What is given must be the parent's, but for `further` and `further_statistics`:
    it is one for a whole lineage."""

    pattern: PatternText | None = None
    target: float | None = Field(default=None, gt=0, lt=1)
    allocation: Allocation | None = None
    curvature: Curvature | None = None
    survey_tokens: SurveyTokens | None = None
    channels: Channels | None = None
    keep_zeros: bool | None = None
    overrides: Annotated[tuple[Override, ...], Field(strict=False)] | None = Field(default=None, max_length=100)
    further: Annotated[tuple[Further, ...], Field(strict=False)] | None = Field(default=None, max_length=16)
    further_statistics: FurtherStatistics | None = None


def merge_method(theirs: dict[str, Any], given: dict[str, Any], effort: Effort | None = None) -> dict[str, Any]:
    """The method of a continuation, not checked yet.

    theirs: the parent's, resolved. given: fields as sent. effort: the parent's, by which another method begins.
    """
    mode = {"mode": theirs["mode"]}
    given = {name: _said(value) for name, value in given.items() if value is not None or name == "recency"}
    if given.get("name") not in (None, theirs["name"]):
        begun = given if effort is None else with_preset_method(given, _of_parent(PRESETS[effort], theirs))
        return {**begun, **mode}
    kept = {name: value for name, value in theirs.items() if name not in _displaced(theirs, given)}
    inner = {
        name: _without_rates(kept.get(name, {}), value) | value
        for name, value in given.items()
        if isinstance(value, dict)
    }
    return kept | given | inner | mode | {"name": theirs["name"]}


def _of_parent(preset: Preset, theirs: dict[str, Any]) -> Preset:
    """As far as the parent's state has what that takes."""
    return replace(
        preset,
        inputs=Inputs(theirs.get("inputs", Inputs.pruned)),
        target=Target(theirs.get("target", Target.dense)),
        output_weighting=OutputWeighting(theirs.get("output_weighting", OutputWeighting.none)),
        refine=Refine(theirs.get("refine", Refine.none)),
    )


def _without_rates(theirs: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The parent's settings without its rate of tuning, where another one is given."""
    return theirs if given.keys().isdisjoint(RATES) else {k: v for k, v in theirs.items() if k not in RATES}


def _said(value: Any) -> Any:
    """Without the nulls of a solver's settings."""
    return {name: own for name, own in value.items() if own is not None} if isinstance(value, dict) else value


def _displaced(theirs: dict[str, Any], given: dict[str, Any]) -> set[str]:
    """The parent's fields that would contradict what is given, or mean nothing beside it."""
    found: set[str] = set()
    if given.get("recency") is not None:
        found.add("objective")
    if given.get("objective") is not None:
        found.add("recency")
    if given.get("weight_update") == "none":
        found |= {"admm", "mask"} | (set() if METHODS[theirs["name"]].solves else {"target", "output_weighting"})
    if given.get("refine") not in (None, theirs.get("refine")):
        found.add("refinement")
    if given.get("target") == Target.prefix or given.get("refine") == Refine.block:
        found.add("inputs")
    if given.get("inputs") not in (None, Inputs.pruned):
        found |= {"target"} if theirs.get("target") == Target.prefix else set()
        found |= {"refine", "refinement"} if theirs.get("refine") == Refine.block else set()
    return found
