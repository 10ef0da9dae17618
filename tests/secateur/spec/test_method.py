from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from secateur.spec.method import (
    METHODS,
    AdmmSettings,
    AlpsSettings,
    Inputs,
    Method,
    MethodName,
    Reading,
    Refinement,
    Scope,
    SparseGptSettings,
    read_method,
)
from secateur.spec.partial import MethodPart, merge_method
from tests.specs import make_method

SETTINGS: dict[str, type[BaseModel]] = {
    "admm": AdmmSettings,
    "alps": AlpsSettings,
    "sparsegpt": SparseGptSettings,
}
UPDATED = {"copal", "alps", "sparsegpt", "wanda", "magnitude"}
SCORING = {"copal", "wanda", "magnitude"}
SOLVING = {"admm", "alps", "auto", "sparsegpt"}
TAKEN_BY: dict[str, set[str]] = {
    "mode": set(MethodName),
    "comparison_group": set(MethodName),
    "recency": set(MethodName),
    "objective": set(MethodName),
    "reading": {"copal"},
    "perturbation": {"copal"},
    "weight_update": UPDATED,
    "mask": SCORING,
    "target": SCORING | SOLVING,
    "output_weighting": SCORING | SOLVING,
    "admm": UPDATED | {"admm"},
    "alps": {"alps"},
    "sparsegpt": {"sparsegpt"},
    "refine": set(MethodName),
    "refinement": set(),
    "iterations": set(),
}


def is_taken(method: dict[str, Any]) -> bool:
    try:
        read_method(method)
    except ValidationError:
        return False
    return True


def around(schema: dict[str, Any]) -> Iterator[tuple[Any, bool]]:
    """Values at, inside and outside every limit of a setting, and of other types; whether each is taken."""
    whole = schema.get("type") == "integer"
    for value in (
        *schema.get("enum", []),
        "magic",
        True,
        None,
        "3",
        *((float("nan"), float("inf"), 1.5) if whole else ()),
    ):
        yield value, value in schema.get("enum", [])
    for limit, sign in (("minimum", 1), ("exclusiveMinimum", 1), ("maximum", -1)):
        if limit not in schema:
            continue
        edge: Any = int(schema[limit]) if whole else float(schema[limit])
        step = 1 if whole else max(1e-9, abs(edge) * 1e-9)
        yield from ((edge, limit != "exclusiveMinimum"), (edge - sign * step, False))
        if not whole or edge != 0:
            yield edge + sign * step, True


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_taken_within_its_limits(name: str) -> None:
    tried = {True: 0, False: 0}
    for key, schema in SETTINGS[name].model_json_schema()["properties"].items():
        for value, expected in around(schema):
            settings = {key: value} | ({"iterations": 1000} if key == "mask_steps" else {})
            settings |= {"mask_steps": 1} if key == "iterations" else {}
            assert is_taken({"name": name, name: settings}) is expected, (key, value)
            tried[expected] += 1
    assert min(tried.values()) > 5


@pytest.mark.parametrize("name", MethodName)
def test_a_method_takes_only_its_own_parameters(name: MethodName) -> None:
    values: dict[str, Any] = {
        "reading": "token",
        "perturbation": "relative",
        "comparison_group": "row",
        "mode": "restart",
        "weight_update": "none",
        "mask": "searched",
        "target": "prefix",
        "output_weighting": "gradients",
        "recency": 0.5,
        "objective": "least_forgetting",
        "admm": {},
        "alps": {},
        "sparsegpt": {},
        "refine": "block",
        "refinement": {},
        "iterations": 3,
    }
    for key, value in values.items():
        plain = name in TAKEN_BY[key] and key != "mask" and (key != "admm" or name == "admm")
        plain = plain and (key not in ("target", "output_weighting") or name in SOLVING)
        assert is_taken({"name": name, key: value}) is plain, key
        if name in UPDATED and key != "weight_update":
            assert is_taken({"name": name, "weight_update": "admm", key: value}) is (name in TAKEN_BY[key]), key


@pytest.mark.parametrize("name", MethodName)
def test_a_refinement_is_taken_within_its_limits_and_with_refine_alone(name: MethodName) -> None:
    tried = {True: 0, False: 0}
    for key, limits in Refinement.model_json_schema()["properties"].items():
        schema = limits.get("anyOf", [limits])[0] | ({"enum": [True, False]} if key == "norms" else {})
        for value, expected in around(schema):
            own = (expected or (value is None and "anyOf" in limits)) and not (value is True and key != "norms")
            assert is_taken({"name": name, "refine": "block", "refinement": {key: value}}) is own, (key, value)
            tried[own] += 1
    assert min(tried.values()) > 5
    assert not is_taken({"name": name, "refinement": {}})
    assert not is_taken({"name": name, "refine": "none", "refinement": {"epochs": 2}})


@pytest.mark.parametrize("name", MethodName)
def test_inputs_behind_dense_blocks_are_refused_where_pruned_ones_are_looked_at(name: MethodName) -> None:
    solved = {} if name in SOLVING else {"weight_update": "admm"} if name in UPDATED else None
    for fields in ({}, {"refine": "norms"}, {"refine": "model"}):
        assert all(is_taken({"name": name, "inputs": inputs, **fields}) for inputs in Inputs)
    wrong: list[dict[str, Any]] = [{"refine": "block"}]
    wrong += [] if solved is None else [{**solved, "target": "prefix"}]
    for fields in wrong:
        assert is_taken({"name": name, "inputs": "pruned", **fields})
        for inputs in ("dense", "dense_to_half"):
            with pytest.raises(ValidationError) as caught:
                read_method({"name": name, "inputs": inputs, **fields})
            (error,) = caught.value.errors()
            assert error["loc"][-1] == "inputs"
            assert "must be `pruned`" in error["msg"]


def refinement(**changes: Any) -> dict[str, Any]:
    usual = {"epochs": 2, "windows": None, "relative_rate": 0.004, "learning_rate": None, "norms": False}
    return usual | changes


def test_a_whole_model_is_tuned_at_a_lower_rate() -> None:
    refinement = make_method(MethodName.wanda, refine="model").refinement
    assert refinement is not None
    assert (refinement.relative_rate, refinement.learning_rate) == (0.0012, None)


def test_a_refinement_is_written_out() -> None:
    assert make_method(MethodName.wanda).refinement is None
    block, norms = (make_method(MethodName.wanda, refine=refine) for refine in ("block", "norms"))
    assert block.model_dump(mode="json")["refinement"] == refinement(epochs=4)
    few = {"epochs": 1, "windows": 8, "relative_rate": 0.015, "norms": True}
    assert norms.model_dump(mode="json")["refinement"] == refinement(**few)
    more = make_method(MethodName.wanda, refine="norms", refinement={"epochs": 4, "windows": 3, "norms": True})
    assert more.model_dump(mode="json")["refinement"] == refinement(**few | {"epochs": 4, "windows": 3})
    assert read_method(more.model_dump(mode="json")) == more
    assert not is_taken({"name": "wanda", "refine": "norms", "refinement": {"norms": False}})
    assert not is_taken({"name": "wanda", "refine": "norms", "refinement": {"windows": 0}})
    absolute = make_method(MethodName.wanda, refine="block", refinement={"learning_rate": 0.001}).refinement
    assert absolute is not None
    assert (absolute.relative_rate, absolute.learning_rate) == (None, 0.001)
    assert not is_taken(
        {"name": "wanda", "refine": "block", "refinement": {"learning_rate": 0.001, "relative_rate": 0.01}}
    )


@pytest.mark.parametrize("name", MethodName)
def test_what_weighs_domains_needs_sums(name: MethodName) -> None:
    for key, value in (("recency", 0.5), ("recency", 4), ("objective", "least_forgetting")):
        for mode in ("accumulated", "restart", "sequential"):
            assert is_taken({"name": name, "mode": mode, key: value}) is (mode == "accumulated")
    for value in (0, 4.1, True, "1", float("nan")):
        assert not is_taken({"name": name, "recency": value})


@pytest.mark.parametrize("name", MethodName)
def test_a_recency_takes_the_place_of_an_objective(name: MethodName) -> None:
    for objective, accepted in (("mean", True), ("least_forgetting", False)):
        assert is_taken({"name": name, "objective": objective, "recency": 0.5}) is accepted


@pytest.mark.parametrize(
    ("method", "keeps"),
    [
        ({}, 1.0),
        ({"objective": "mean", "recency": None}, 1.0),
        ({"objective": "least_forgetting"}, 2.0),
        ({"recency": 0.5}, 0.5),
        ({"objective": "mean", "recency": 4}, 4.0),
    ],
)
def test_recency_is_what_is_said_or_what_the_objective_implies(method: dict[str, Any], keeps: float) -> None:
    assert read_method({"name": "wanda", **method}).keeps == keeps


def test_every_parameter_says_what_it_means() -> None:
    models: list[type[BaseModel]] = [*METHODS.values(), *SETTINGS.values()]
    for model in models:
        for key, field in model.model_fields.items():
            nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
            assert key == "name" or nested or field.description, (model, key)


def test_a_continuation_may_say_every_parameter() -> None:
    assert {key for model in METHODS.values() for key in model.model_fields} == MethodPart.model_fields.keys()


def test_a_method_is_hashed_by_what_it_says() -> None:
    one, same = (read_method({"name": "admm", "admm": {"damping": value}}) for value in (1, 1.0))
    assert len({one, same, make_method("admm")}) == 2


def test_only_other_readings_than_copals_own_need_importances() -> None:
    for reading in Reading:
        assert (make_method("copal", reading=reading).importance is None) is (reading is Reading.own_terms)
    assert not any(make_method(name).importance for name in MethodName if name is not MethodName.copal)


def test_a_method_under_another_name_keeps_the_settings_but_not_the_comparison() -> None:
    def method(**fields: Any) -> Method:
        return read_method({"name": "copal", "mode": "restart", "comparison_group": "matrix", **fields})

    assert method().named(None) == method().named(MethodName.copal) == method()
    named = method().named(MethodName.wanda)
    assert (named.comparison_group, named.mode, named.solver) == (Scope.row, "restart", "wanda")
    assert method().named(MethodName.admm).solver == "admm"
    updating = method(weight_update="admm", admm={"iterations": 30})
    assert updating.named(MethodName.wanda).solver == "wanda+admm"
    for name in (MethodName.wanda, MethodName.alps, MethodName.sparsegpt):
        update = updating.named(name).update
        assert update is not None
        assert update.iterations == 30
    admm = updating.named(MethodName.admm)
    assert admm == read_method({"name": "admm", "mode": "restart", "admm": {"iterations": 30}})
    # An update that was asked for follows whatever takes one.
    assert updating.named(MethodName.alps).solver == "alps+admm"
    solving = make_method("sparsegpt", "admm")
    assert (solving.solver, solving.named(MethodName.wanda).solver) == ("sparsegpt+admm", "wanda+admm")
    # What auto chooses solves for the weights itself.
    assert updating.named(MethodName.auto).solver == "auto"
    auto = make_method("auto")
    assert (auto.comparison_group, auto.updates_weights) == (Scope.matrix, True)
    assert auto.named(MethodName.wanda).solver == "wanda"
    # ADMM's own update is no wish for one after a plain selection.
    solving = read_method({"name": "admm", "admm": {"iterations": 30}})
    assert solving.named(MethodName.magnitude).solver == "magnitude"
    assert not solving.named(MethodName.magnitude).updates_weights


@pytest.mark.parametrize("name", MethodName)
def test_every_method_can_be_named_beside_every_other(name: MethodName) -> None:
    update: Any
    for job in MethodName:
        for update, mask in ((None, None), ("admm", None), ("admm", "searched")):
            if (update and job not in UPDATED) or (mask and job not in SCORING):
                continue
            own = make_method(job, update, mask)
            assert own.named(name).name is name
            assert own.named(name).mode is own.mode


@pytest.mark.parametrize("name", MethodName)
def test_a_target_goes_to_every_named_method_that_solves(name: MethodName) -> None:
    for job in ({"name": "admm"}, {"name": "sparsegpt"}, {"name": "copal", "weight_update": "admm"}):
        own = read_method({**job, "target": "prefix", "output_weighting": "gradients"})
        follows = name in SOLVING or (job["name"] == "copal" and name in SCORING)
        assert own.named(name).follows_dense is follows
        assert own.named(name).weighs_outputs is follows
        assert ({"cross", "output_grams"} <= own.named(name).statistics) is follows
        assert not read_method(job).named(name).follows_dense


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"refine": "block", "refinement": refinement()}),
        ({"refinement": {"norms": True}}, {"refine": "block", "refinement": refinement(norms=True)}),
        (
            {"refinement": {"learning_rate": 0.1}},
            {"refine": "block", "refinement": refinement(learning_rate=0.1, relative_rate=None)},
        ),
        ({"refine": "none"}, {"refine": "none"}),
        ({"name": "wanda"}, {"refine": "none"}),
    ],
)
def test_a_continuation_says_of_its_refinement_what_differs(
    given: dict[str, Any], expected: dict[str, Any]
) -> None:
    parent = read_method({"name": "admm", "refine": "block", "refinement": {"epochs": 2}}).model_dump(mode="json")
    merged = read_method(merge_method(parent, MethodPart(**given).model_dump(mode="json", exclude_unset=True)))
    assert {name: value for name, value in merged.model_dump(mode="json").items() if "refine" in name} == expected
