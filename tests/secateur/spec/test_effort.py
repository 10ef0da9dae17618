"""What a request leaves open, by its effort; what it says stays."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from secateur.spec.effort import PRESETS, SHORT, Effort
from secateur.spec.job import JobCreate, JobSpec
from secateur.spec.method import METHODS, Inputs, Method, MethodName, OutputWeighting, Target, read_method
from secateur.spec.partial import merge_method
from secateur.spec.sparsity import SURVEY_TOKENS, Channels, Curvature
from secateur.spec.strict import explain

DOMAINS: list[dict[str, Any]] = [{"name": "a", "dataset": "ds_a"}, {"name": "b", "dataset": "ds_b"}]
PLAIN = {"iterations": 20, "mask_steps": 15, "polish_steps": 10}
SOLVED: list[dict[str, Any]] = [
    {"name": "admm"},
    {"name": "alps"},
    {"name": "auto"},
    *(
        {"name": name, "weight_update": "admm"}
        for name in MethodName
        if METHODS[name].updatable or name is MethodName.admm
    ),
    {"name": "copal", "weight_update": "admm", "mask": "searched"},
]
SEARCHED = [each for each in SOLVED if each["name"] == "admm" or "mask" in each]
KEPT: list[dict[str, Any]] = [
    *({"name": name} for name in ("copal", "wanda", "magnitude", "sparsegpt")),
    {"name": "wanda", "weight_update": "none"},
]


def ask(**changes: Any) -> JobCreate:
    spec = {"model": "m", "method": {"name": "admm"}, "sparsity": {"target": 0.5}, "domains": DOMAINS}
    return JobCreate.model_validate(spec | changes)


def steps(method: Method) -> dict[str, int]:
    settings = method.model_dump(mode="json")["admm"]
    return {name: settings[name] for name in PLAIN}


@pytest.mark.parametrize("effort", Effort)
@pytest.mark.parametrize("method", SOLVED)
def test_what_is_left_out_is_as_the_effort_has_it(effort: Effort, method: dict[str, Any]) -> None:
    preset, job = PRESETS[effort], ask(method=method, effort=effort)
    assert job.method.follows_dense is (preset.target is Target.prefix)
    assert job.method.weighs_outputs is (preset.output_weighting is OutputWeighting.gradients)
    assert job.method.refine is preset.refine
    assert job.sparsity.curvature is preset.curvature
    assert job.sparsity.survey_tokens == preset.survey_tokens
    if job.method.update is not None or method["name"] == "admm":
        assert steps(job.method) == (preset.search if method in SEARCHED else PLAIN)
    resolved = job.resolved()
    assert resolved["effort"] == effort
    assert ask(**resolved).resolved() == resolved
    assert JobSpec.model_validate(resolved).method == job.method
    assert read_method(resolved["method"]) == job.method


def test_the_efforts_differ_and_the_usual_one_is_standard() -> None:
    assert ask().resolved() == ask(effort="standard").resolved()
    methods = [ask(effort=effort).resolved()["method"] for effort in (*Effort, None)]
    assert all(one != other for number, one in enumerate(methods) for other in methods[:number])


@pytest.mark.parametrize("effort", [*Effort, None])
@pytest.mark.parametrize("method", KEPT)
def test_a_selection_and_a_baseline_stay_as_they_are(effort: Effort | None, method: dict[str, Any]) -> None:
    found = ask(method=method, effort=effort)
    assert found.method == read_method(method)
    assert found.sparsity.survey_tokens == SURVEY_TOKENS


@pytest.mark.parametrize("effort", [*Effort, None])
@pytest.mark.parametrize(
    "given",
    [
        {"target": "dense"},
        {"refine": "none"},
        {"refine": "block", "refinement": {"epochs": 2}},
        {"target": "prefix", "output_weighting": "none"},
        {"output_weighting": "gradients"},
        {"inputs": "dense"},
        {"inputs": "dense_to_half", "refine": "model"},
        {"inputs": "pruned", "target": "prefix"},
        {"admm": {"iterations": 30}},
        {"admm": {"mask_steps": 12}},
        {"admm": {"polish_steps": 0}},
        {"admm": {"damping": 0.3, "schedule": "gradual"}},
        {"admm": {}},
    ],
)
def test_what_is_given_counts_whatever_the_effort(effort: Effort | None, given: dict[str, Any]) -> None:
    found = ask(method={"name": "admm", **given}, effort=effort).resolved()["method"]
    for name, value in given.items():
        assert found[name] == (found[name] | value if isinstance(value, dict) else value)
    named = set(given.get("admm", {})) & set(PLAIN)
    expected = (PLAIN | given["admm"]) if named else PLAIN if effort is None else PRESETS[effort].search
    assert {name: found["admm"][name] for name in PLAIN} == {name: expected[name] for name in PLAIN}


@pytest.mark.parametrize("effort", Effort)
def test_the_curvature_is_said_where_rates_are_shared_out_by_the_error(effort: Effort) -> None:
    for sparsity in ({"target": 0.5, "allocation": "uniform"}, {"target": 0.5, "allocation": "owl"}):
        assert ask(sparsity=sparsity, effort=effort).sparsity.curvature is Curvature.adapting
    assert ask(sparsity={"pattern": "2:4"}, effort=effort).sparsity.curvature is Curvature.adapting
    given = {"target": 0.5, "curvature": "adapting"}
    assert ask(sparsity=given, effort=effort).sparsity.curvature is Curvature.adapting
    said = {"target": 0.5, "pattern": "unstructured", "allocation": "error", "curvature": None}
    assert ask(sparsity=said, effort=effort).sparsity.curvature is PRESETS[effort].curvature


def test_only_the_fast_effort_looks_at_fewer_tokens_and_only_where_rates_are_shared_out() -> None:
    found = {effort: ask(effort=effort).sparsity.survey_tokens for effort in (*Effort, None)}
    usual = dict.fromkeys((Effort.standard, Effort.best, None), SURVEY_TOKENS)
    assert found == usual | {Effort.fast: 2048}
    for sparsity in ({"target": 0.5, "survey_tokens": 512}, {"target": 0.5, "survey_tokens": None}):
        job = ask(sparsity=sparsity, effort="fast")
        assert job.sparsity.survey_tokens == (sparsity["survey_tokens"] or 2048)
    assert (
        ask(sparsity={"target": 0.5, "survey_tokens": None}, effort=None).sparsity.survey_tokens == SURVEY_TOKENS
    )
    for sparsity in ({"pattern": "2:4"}, {"target": 0.5, "allocation": "uniform"}):
        assert ask(sparsity=sparsity, effort="fast").sparsity.survey_tokens == SURVEY_TOKENS


@pytest.mark.parametrize(
    ("given", "windows"),
    [
        ({}, 4),
        ({"refine": None, "refinement": None}, 4),
        ({"refinement": {"epochs": 2}}, 4),
        ({"refinement": {"windows": None}}, 4),
        ({"refinement": {"windows": 6}}, 6),
        ({"refine": "block"}, None),
        ({"refine": "model", "refinement": {"epochs": 2}}, None),
    ],
)
def test_the_fast_effort_tunes_norms_on_fewer_windows(given: dict[str, Any], windows: int | None) -> None:
    found = ask(method={"name": "admm", **given}, effort="fast").method
    assert found.refinement is not None
    assert found.refinement.windows == windows
    usual = ask(method={"name": "admm"}, effort="standard").method.refinement
    assert usual is not None
    assert usual.windows == 8


@pytest.mark.parametrize(
    ("method", "inputs"),
    [
        ({}, "dense_to_half"),
        ({"inputs": None, "refine": "none"}, "dense_to_half"),
        ({"inputs": "pruned"}, "pruned"),
        ({"inputs": "dense"}, "dense"),
        ({"target": "prefix"}, "pruned"),
        ({"refine": "block"}, "pruned"),
    ],
)
def test_the_fast_effort_measures_behind_dense_blocks_where_nothing_looks_behind_pruned_ones(
    method: dict[str, Any], inputs: str
) -> None:
    assert ask(method={"name": "admm", **method}, effort="fast").method.inputs == inputs
    for effort in (Effort.standard, Effort.best, None):
        assert ask(method={"name": "admm"}, effort=effort).method.inputs is Inputs.pruned


@pytest.mark.parametrize("effort", Effort)
def test_channels_are_permuted_where_weights_are_solved_for_in_groups(effort: Effort) -> None:
    one = {"target": 0.5, "overrides": [{"match": "*", "pattern": "2:4"}]}
    for sparsity in ({"pattern": "2:4"}, one, {**one, "curvature": "adapting"}):
        assert ask(sparsity=sparsity, effort=effort).sparsity.channels is PRESETS[effort].channels
        assert ask(sparsity=sparsity, effort=None).sparsity.channels is Channels.as_stored
        for method in KEPT:
            assert ask(sparsity=sparsity, method=method, effort=effort).sparsity.channels is Channels.as_stored
        said = {**sparsity, "channels": "as_stored"}
        assert ask(sparsity=said, effort=effort).sparsity.channels is Channels.as_stored
    assert ask(effort=effort).sparsity.channels is Channels.as_stored


def test_without_a_preset_every_field_is_plain() -> None:
    job = ask(effort=None)
    assert job.method == read_method({"name": "admm"})
    assert job.sparsity.curvature is Curvature.adapting
    assert job.resolved()["effort"] is None


@pytest.mark.parametrize("field", [{"held_out": 0}, {"held_out": 0.0}, {"samples": 1}])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("effort", Effort)
def test_nothing_is_judged_by_windows_held_out_where_none_are(
    field: dict[str, Any], number: int, effort: Effort
) -> None:
    domains = [dict(each) for each in DOMAINS]
    domains[number]["calibration"] = field
    job = ask(domains=domains, effort=effort)
    assert not job.method.follows_dense
    assert job.method.refinement is None
    assert job.method.weighs_outputs is (PRESETS[effort].output_weighting is OutputWeighting.gradients)
    with pytest.raises(ValidationError, match="held out"):
        ask(domains=domains, method={"name": "admm", "target": "prefix"})


@pytest.mark.parametrize("effort", Effort)
def test_nothing_is_tuned_without_text_of_its_own(effort: Effort) -> None:
    for statistics, tuned in (("own", True), (None, True), ("shared", False)):
        sparsity = {"target": 0.5, "further": [0.7], "further_statistics": statistics}
        job = ask(sparsity=sparsity, effort=effort)
        assert (job.method.refinement is not None) is tuned
        assert job.method.follows_dense is (PRESETS[effort].target is Target.prefix)
    with pytest.raises(ValidationError, match="no text to tune on"):
        ask(
            sparsity=sparsity,
            method={"name": "admm", "refine": "norms"},
            effort=effort,
        )


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"effort": "slow"}, "/effort"),
        ({"effort": 3}, "/effort"),
        ({"effort": ["fast"]}, "/effort"),
        ({"effort": {}}, "/effort"),
        ({"method": "admm"}, "/method"),
        ({"method": {"name": ["admm"]}}, "/method/name"),
        ({"method": {"name": "admm", "admm": 3}}, "/method/admm"),
        ({"method": {"name": "admm", "target": "sparse"}}, "/method/target"),
        ({"sparsity": []}, "/sparsity"),
        ({"sparsity": {"target": 0.5, "pattern": []}}, "/sparsity/pattern"),
        ({"sparsity": {"pattern": "2:4", "channels": "sorted"}}, "/sparsity/channels"),
        ({"sparsity": {"target": 0.5, "overrides": [3]}}, "/sparsity/overrides/0"),
        ({"sparsity": {"target": 0.5, "survey_tokens": 255}}, "/sparsity/survey_tokens"),
        ({"sparsity": {"target": 0.5, "survey_tokens": "all"}}, "/sparsity/survey_tokens"),
        ({"sparsity": {"target": 0.5, "allocation": {}}}, "/sparsity/allocation"),
        ({"domains": {"a": 1}}, "/domains"),
        ({"domains": [3]}, "/domains/0"),
        ({"domains": [{"name": "a", "dataset": "d", "calibration": 3}]}, "/domains/0/calibration"),
    ],
)
def test_what_has_a_wrong_form_is_refused_at_its_place(changes: dict[str, Any], pointer: str) -> None:
    body = {"model": "m", "method": {"name": "admm"}, "sparsity": {"target": 0.5}, "domains": DOMAINS, **changes}
    for effort in ({}, {"effort": "best"}):
        asked = {**effort, **body}
        with pytest.raises(ValidationError) as caught:
            JobCreate.model_validate_json(json.dumps(asked))
        assert explain(caught.value.errors()[0], asked)[0] == pointer


def test_parts_that_were_read_before_are_filled_alike() -> None:
    read = ask(effort=None)
    again = JobCreate(
        model="m", method=read_method({"name": "admm"}), sparsity={"target": 0.5}, domains=read.domains
    )
    assert again.method == ask().method


def test_another_method_of_a_continuation_takes_what_the_parent_has_kept() -> None:
    theirs = ask(method={"name": "alps"}, effort="best").resolved()["method"]
    given = {"name": "copal", "weight_update": "admm"}
    found = read_method(merge_method(theirs, given, Effort.best))
    assert found.statistics >= {"cross", "output_grams"}
    assert found.refinement is not None
    assert read_method(merge_method(theirs, given, None)) == read_method(given)
    without = ask(method={"name": "sparsegpt"}).resolved()["method"]
    found = read_method(merge_method(without, {"name": "admm"}, Effort.standard))
    assert found.statistics == {"gram"}
    assert steps(found) == SHORT
    fast = ask(effort="fast").resolved()["method"]
    assert read_method(merge_method(fast, {"name": "alps"}, Effort.fast)).inputs is Inputs.dense_to_half
    assert read_method(merge_method(without, {"name": "admm"}, Effort.fast)).inputs is Inputs.pruned
    for given in ({"target": "prefix"}, {"refine": "block"}):
        assert read_method(merge_method(fast, given, Effort.fast)).inputs is Inputs.pruned
    block = ask(method={"name": "admm", "target": "prefix", "refine": "block"}).resolved()["method"]
    found = read_method(merge_method(block, {"inputs": "dense"}, Effort.standard))
    assert not found.follows_dense
    assert found.refinement is None
    kept = read_method(merge_method(theirs, {"inputs": "pruned"}, Effort.best))
    assert kept.follows_dense
