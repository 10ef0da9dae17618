"""The API's methods mirror the engine's without importing them; here both are held against each other."""

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.jobs.method_spec import METHODS, AdmmSettings, AlpsSettings, Method, SparseGptSettings
from app.kit.fields import Strict
from worker.pruning import SpecError
from worker.pruning.fields import Fields
from worker.pruning.method_spec import AdmmConfig, AlpsConfig, MethodName, SparseGptConfig
from worker.pruning.method_spec import Method as EngineMethod

SETTINGS: list[tuple[str, type[Strict], type[Any]]] = [
    ("admm", AdmmSettings, AdmmConfig),
    ("alps", AlpsSettings, AlpsConfig),
    ("sparsegpt", SparseGptSettings, SparseGptConfig),
]
API: TypeAdapter[Any] = TypeAdapter(Method)


def name_of(method: type[Strict]) -> str:
    return str(get_args(method.model_fields["name"].annotation)[0])


def accepted_by_api(method: dict[str, Any]) -> bool:
    try:
        API.validate_python(method)
    except ValidationError:
        return False
    return True


def accepted_by_engine(method: dict[str, Any]) -> bool:
    try:
        EngineMethod.read(Fields(method, "/method"))
    except SpecError:
        return False
    return True


def test_both_know_the_same_methods() -> None:
    assert {name_of(method) for method in METHODS} == set(MethodName)


@pytest.mark.parametrize(("name", "api", "engine"), SETTINGS, ids=[name for name, _, _ in SETTINGS])
def test_settings_have_the_same_fields_and_defaults(name: str, api: type[Strict], engine: type[Any]) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(engine)}
    assert {key: field.default for key, field in api.model_fields.items()} == defaults


def around(schema: dict[str, Any]) -> Iterator[Any]:
    """Values at, just inside and just outside every limit of a setting, and of other types."""
    yield from (*schema.get("enum", []), "magic", True)
    step: Any = 1 if schema.get("type") == "integer" else 1e-9
    for limit in ("minimum", "maximum", "exclusiveMinimum"):
        if limit in schema:
            edge = int(schema[limit]) if schema["type"] == "integer" else float(schema[limit])
            yield from (edge, edge - max(step, abs(edge) * 1e-9), edge + max(step, abs(edge) * 1e-9))
    if schema.get("type") == "number":
        yield from (float("nan"), float("inf"))


@pytest.mark.parametrize(("name", "api", "engine"), SETTINGS, ids=[name for name, _, _ in SETTINGS])
def test_settings_have_the_same_limits(name: str, api: type[Strict], engine: type[Any]) -> None:
    tried = {True: 0, False: 0}
    for key, schema in api.model_json_schema()["properties"].items():
        for value in around(schema):
            method: dict[str, Any] = {"name": name, name: {key: value}}
            answer = accepted_by_api(method)
            assert accepted_by_engine(method) is answer, (key, value)
            tried[answer] += 1
    assert min(tried.values()) > 5


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_a_method_takes_only_its_own_parameters_in_both(method: type[Strict]) -> None:
    others: dict[str, Any] = {
        "reading": "token",
        "perturbation": "relative",
        "comparison_group": "row",
        "mode": "restart",
        "weight_update": "none",
        "mask": "searched",
        "recency": 0.5,
        "objective": "least_forgetting",
        **{name: {} for name, _, _ in SETTINGS},
        "iterations": 3,
    }
    for key, value in others.items():
        for update in ({}, {"weight_update": "admm"}):
            asked = {"name": name_of(method), **update, key: value}
            assert accepted_by_engine(asked) is accepted_by_api(asked), asked


@pytest.mark.parametrize("method", METHODS, ids=name_of)
@pytest.mark.parametrize("key", ["recency", "objective"])
def test_what_weighs_domains_is_the_same_in_both_and_needs_sums(method: type[Strict], key: str) -> None:
    schema = method.model_json_schema()["properties"][key]
    values = [value for part in schema.get("anyOf", [schema]) for value in around(part)]
    answers = set()
    for value in values:
        for mode in ("accumulated", "restart", "sequential"):
            asked = {"name": name_of(method), "mode": mode, key: value}
            answer = accepted_by_api(asked)
            assert accepted_by_engine(asked) is answer, asked
            answers.add((mode == "accumulated", answer))
    assert {(True, True), (False, False)} <= answers


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_a_recency_takes_the_place_of_an_objective_in_both(method: type[Strict]) -> None:
    for objective, accepted in (("mean", True), ("least_forgetting", False)):
        asked = {"name": name_of(method), "objective": objective, "recency": 0.5}
        assert accepted_by_engine(asked) is accepted_by_api(asked) is accepted, asked


def test_every_parameter_says_what_it_means() -> None:
    models: list[type[BaseModel]] = [*METHODS, *(api for _, api, _ in SETTINGS)]
    for model in models:
        for key, field in model.model_fields.items():
            nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
            assert key == "name" or nested or field.description, (model, key)
