"""How much a job does for quality: presets for what a request leaves open."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import BaseModel

from secateur.spec.method import METHODS, Inputs, Mask, MethodName, OutputWeighting, Refine, Target, WeightUpdate
from secateur.spec.sparsity import SURVEY_TOKENS, Allocation, Channels, Curvature, FurtherStatistics, Pattern
from secateur.spec.strict import Choice


class Effort(Choice):
    """A set of choices that go together, by what they cost."""

    fast = "fast"
    standard = "standard"
    best = "best"


@dataclass(frozen=True)
class Preset:
    """What is meant where a request names no such field."""

    target: Target
    output_weighting: OutputWeighting
    curvature: Curvature
    search: Mapping[str, int]
    """Of `admm`, where it looks for the mask itself: taken as a whole, where none of it is named."""
    refine: Refine = Refine.none
    inputs: Inputs = Inputs.pruned
    """Where nothing looks at what comes behind pruned blocks."""
    channels: Channels = Channels.permuted
    """With an n:m pattern, where weights are solved for."""
    further_statistics: FurtherStatistics = FurtherStatistics.own
    """Where there are further targets."""
    survey_tokens: int = SURVEY_TOKENS
    """Of the allocation `error`, where weights are solved for."""
    windows: int | None = None
    """That are tuned on, where `refine` is the preset's; None: as many as are usual."""


SHORT: Final = {"iterations": 10, "mask_steps": 8, "polish_steps": 3}
"""As good as twice as many, in half of the time. On a given mask it would not be: there ten steps fall short."""
SHORTEST: Final = {"iterations": 6, "mask_steps": 5, "polish_steps": 3}
"""A quarter of the time less, for one or two per cent of a matrix's error."""
PRESETS: Final = {
    Effort.fast: Preset(
        Target.dense,
        OutputWeighting.none,
        Curvature.plain,
        SHORTEST,
        Refine.norms,
        inputs=Inputs.dense_to_half,
        survey_tokens=2048,
        windows=4,
    ),
    Effort.standard: Preset(Target.prefix, OutputWeighting.gradients, Curvature.plain, SHORT, Refine.norms),
    Effort.best: Preset(Target.prefix, OutputWeighting.gradients, Curvature.plain, SHORT, Refine.model),
}
_SOLVERS: Final = (MethodName.admm, MethodName.alps, MethodName.auto)
"""Methods that a preset is for by themselves. SparseGPT is a baseline: it stays as its paper has it."""


def with_preset(request: Mapping[str, Any], effort: Effort) -> dict[str, Any]:
    """A request for a job with the preset's choices in the place of those that it leaves out or says null for.

    Nothing is checked yet: what has a wrong form stays as it is. Where a domain holds no windows out, nothing is
    solved towards the dense prefix or refined, because these judge both; nor is anything refined where further
    targets share statistics, and so have no text of their own.
    """
    preset, found = PRESETS[effort], dict(request) | {"effort": effort}
    if not _hold_out(found.get("domains")):
        preset = replace(preset, target=Target.dense, refine=Refine.none)
    if _shares_statistics(found.get("sparsity")):
        preset = replace(preset, refine=Refine.none)
    if "method" in found:
        found["method"] = with_preset_method(found["method"], preset)
    if "sparsity" in found:
        found["sparsity"] = _sparsity(found["sparsity"], preset, solved=_is_solved(_as_sent(found.get("method"))))
    return found


def unsay(found: BaseModel, sent: Any, filled: Mapping[str, Any]) -> None:
    """Let what a preset has filled in count as unset, so that a client leaves it to the server."""
    said = _as_sent(sent)
    for name, value in filled.items() if isinstance(said, dict) else ():
        if name not in said:
            found.model_fields_set.discard(name)
        elif isinstance(part := getattr(found, name, None), BaseModel) and isinstance(value, dict):
            unsay(part, said[name], value)


def with_preset_method(method: Any, preset: Preset) -> Any:
    """The same for a method alone."""
    given = _as_sent(method)
    if not _is_solved(given):
        return given
    if given.get("inputs") not in (None, Inputs.pruned):
        preset = replace(preset, target=Target.dense)
    wanted = {name: getattr(preset, name) for name in ("target", "output_weighting", "refine")}
    found = given | {name: value for name, value in wanted.items() if given.get(name) is None}
    if found["target"] != Target.prefix and found["refine"] != Refine.block and given.get("inputs") is None:
        found["inputs"] = preset.inputs
    if preset.windows is not None and found["refine"] == preset.refine != Refine.none:
        found["refinement"] = _tuning(given.get("refinement"), preset.windows)
    return found | ({"admm": _search(given.get("admm"), preset)} if _searches(given) else {})


def _tuning(settings: Any, windows: int) -> Any:
    own = {} if settings is None else _as_sent(settings)
    if not isinstance(own, dict) or own.get("windows") is not None:
        return settings
    return {**own, "windows": windows}


def _searches(given: Mapping[str, Any]) -> bool:
    return given["name"] == MethodName.admm or given.get("mask") == Mask.searched


def _search(settings: Any, preset: Preset) -> Any:
    own = {} if settings is None else _as_sent(settings)
    if not isinstance(own, dict) or any(own.get(name) is not None for name in preset.search):
        return settings
    return {**own, **preset.search}


def _is_solved(given: Any) -> bool:
    """Whether its weights are solved for by what takes a target."""
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str) or name not in METHODS:
        return False
    updated = METHODS[MethodName(name)].updatable and given.get("weight_update") == WeightUpdate.admm
    return name in _SOLVERS or updated


def _sparsity(sparsity: Any, preset: Preset, *, solved: bool) -> Any:
    given = _as_sent(sparsity)
    if not isinstance(given, dict):
        return given
    shares = given.get("allocation") in (None, Allocation.error)
    unstructured = not _is_grouped(given.get("pattern"))
    overrides = given.get("overrides")
    others = [_as_sent(each) for each in overrides] if isinstance(overrides, list | tuple) else []
    grouped = not unstructured or any(
        isinstance(each, dict) and _is_grouped(each.get("pattern")) for each in others
    )
    wanted: dict[str, Any] = {}
    if shares and unstructured:
        wanted |= {"curvature": preset.curvature} | ({"survey_tokens": preset.survey_tokens} if solved else {})
    if solved and grouped:
        wanted |= {"channels": preset.channels}
    if given.get("further"):
        wanted |= {"further_statistics": preset.further_statistics}
    return given | {name: value for name, value in wanted.items() if given.get(name) is None}


def _is_grouped(pattern: Any) -> bool:
    return pattern not in (None, Pattern(), str(Pattern()))


def _shares_statistics(sparsity: Any) -> bool:
    given = _as_sent(sparsity)
    return isinstance(given, dict) and given.get("further_statistics") == FurtherStatistics.shared


def _hold_out(domains: Any) -> bool:
    """Whether every domain leaves some of its windows out of what is solved on."""
    for domain in domains if isinstance(domains, list | tuple) else ():
        given = _as_sent(domain)
        calibration = _as_sent(given.get("calibration")) if isinstance(given, dict) else None
        if isinstance(calibration, dict) and (calibration.get("held_out") == 0 or calibration.get("samples") == 1):
            return False
    return True


def _as_sent(value: Any) -> Any:
    return value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
