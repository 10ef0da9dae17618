"""Specs as the database has them, one of each kind: whatever is changed, they stay readable."""

import json
from pathlib import Path
from typing import Any

import pytest

from secateur.spec.job import JobCreate, dataset_pointers
from secateur.spec.method import METHODS
from worker.attempt.staging import base_of, computed
from worker.pruning import PruningJob

STORED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "stored_specs.json").read_text())


def test_there_is_one_of_each_method() -> None:
    assert {spec["method"]["name"] for spec in STORED.values()} == set(METHODS)


@pytest.mark.parametrize("name", STORED)
def test_a_stored_spec_is_what_the_engine_is_asked_for(name: str) -> None:
    spec = STORED[name]
    earlier = {"base": base_of(["first"], [("first", "ds_1")])} if "continues" in spec else {}
    texts = {dataset: {"path": dataset} for dataset in dataset_pointers(spec)}
    job = PruningJob.from_dict({**computed(spec), **earlier, "model": "m", "workspace": "w", "texts": texts})
    assert_within(spec["method"], job.model_dump(mode="json")["method"])
    assert job.model_dump(mode="json")["sparsity"].items() >= spec["sparsity"].items()
    assert [domain.name for domain in job.domains] == [domain["name"] for domain in spec["domains"]]


@pytest.mark.parametrize("name", STORED)
def test_a_stored_spec_can_be_asked_for_again_and_continued(name: str) -> None:
    """What it says stays; only fields that came later are added."""
    spec = {key: value for key, value in STORED[name].items() if key != "continues"}
    assert_within(spec, JobCreate.model_validate(spec).resolved())


def assert_within(old: Any, new: Any) -> None:
    if isinstance(old, dict):
        for key, value in old.items():
            assert_within(value, new[key])
    elif isinstance(old, list):
        assert len(old) == len(new)
        for one, other in zip(old, new, strict=True):
            assert_within(one, other)
    else:
        assert old == new
