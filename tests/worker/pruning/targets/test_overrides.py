import time
from typing import Any

import pytest

from secateur.spec.method import MethodName
from secateur.spec.sparsity import Override, Pattern, Sparsity
from worker.pruning import UserError
from worker.pruning.model.graph import PrunableWeight
from worker.pruning.targets.overrides import matching, overlaps, settle

PARTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
MATRICES = [
    PrunableWeight(f"model.layers.{block}.{part}.weight", part, 8, 8, False)
    for block in range(12)
    for part in PARTS
]
NAMES = [matrix.name for matrix in MATRICES]


def sparsity(*overrides: dict[str, Any], **changes: Any) -> Sparsity:
    return Sparsity.model_validate({"target": 0.5, "overrides": list(overrides), **changes})


def found(**match: str) -> list[str]:
    return matching(Override(skip=True, **match), NAMES)


def test_globs_and_regular_expressions_match_whole_names() -> None:
    assert len(found(match="*.down_proj.weight")) == 12
    assert found(match="model.layers.1.mlp") == []
    assert len(found(match="model.layers.[01].*")) == 6
    assert len(found(regex=r"model\.layers\.\d\..*")) == 30
    assert found(regex=r"model\.layers\.3\.mlp\.\w+\.weight") == ["model.layers.3.mlp.down_proj.weight"]
    assert found(regex=r"layers") == []
    assert len(found(regex=r"model\.layers\.0\..*|.*\.11\..*")) == 6


def test_no_expression_takes_more_than_linear_time() -> None:
    # Python's own engine would take longer than the age of the universe.
    names = ["a" * 5000 + "b"] * 50
    began = time.process_time()
    assert matching(Override(regex="(a+)+", skip=True), names) == []
    assert time.process_time() - began < 20


def test_later_overrides_win_field_by_field() -> None:
    resolved = settle(
        MATRICES,
        sparsity(
            {"match": "*.mlp.*", "target": 0.4, "method": "admm"},
            {"match": "*.10.*", "target": 0.3},
            {"match": "*.mlp.*", "method": "magnitude"},
            {"match": "*.11.mlp.*", "pattern": "2:4"},
        ),
    )
    ten, eleven = (
        resolved["model.layers.10.mlp.down_proj.weight"],
        resolved["model.layers.11.mlp.down_proj.weight"],
    )
    assert (ten.target, ten.method, ten.pattern) == (0.3, MethodName.magnitude, None)
    assert ten.winners == {"target": 1, "method": 2}
    assert (eleven.target, eleven.method, eleven.pattern) == (None, MethodName.magnitude, Pattern(2, 4))
    assert eleven.winners == {"method": 2, "pattern": 3}
    assert resolved["model.layers.0.self_attn.q_proj.weight"].winners == {}


def test_an_amount_ends_a_skip_and_a_method_does_not() -> None:
    resolved = settle(
        MATRICES,
        sparsity(
            {"match": "model.layers.0.*", "skip": True},
            {"match": "*.down_proj.*", "method": "magnitude"},
            {"match": "*.0.*.o_proj.*", "target": 0.2},
        ),
    )
    assert resolved["model.layers.0.mlp.down_proj.weight"].skip
    assert not resolved["model.layers.0.self_attn.o_proj.weight"].skip
    assert resolved["model.layers.0.self_attn.q_proj.weight"].skip


def test_overlaps_are_gathered_with_who_wins() -> None:
    resolved = settle(
        MATRICES,
        sparsity(
            {"match": "*.mlp.*", "target": 0.4, "method": "admm"}, {"match": "model.layers.1*", "target": 0.3}
        ),
    )
    (overlap,) = overlaps(resolved)
    assert overlap.overrides == (0, 1)
    assert overlap.winners == {"target": 1, "method": 0}
    assert overlap.matrices == [f"model.layers.{block}.mlp.down_proj.weight" for block in (1, 10, 11)]
    assert overlaps(settle(MATRICES, sparsity({"match": "*.mlp.*", "target": 0.4}))) == []


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ([{"match": "*.up_proj.*", "skip": True}], "unmatched_override", "0/match"),
        ([{"regex": "mlp", "skip": True}], "unmatched_override", "0/regex"),
        (
            [{"match": "*.0.mlp.*", "target": 0.1, "pattern": "unstructured"}, {"match": "*.mlp.*", "skip": True}],
            "shadowed_override",
            "0/match",
        ),
        (
            [{"match": "*.0.mlp.*", "target": 0.4}, {"match": "*.mlp.*", "pattern": "2:4"}],
            "shadowed_override",
            "0/match",
        ),
        (
            [{"match": "*.mlp.*", "method": "admm"}, {"match": "*.mlp.*", "skip": True}],
            "shadowed_override",
            "0/match",
        ),
        (
            [{"match": "*.mlp.*", "skip": True}, {"match": "*.mlp.*", "method": "admm"}],
            "shadowed_override",
            "1/match",
        ),
        (
            [{"match": "*.mlp.*", "target": 0.4, "method": "admm"}, {"match": "*.mlp.*", "skip": True}],
            "shadowed_override",
            "0/match",
        ),
        (
            [{"match": "*.0.mlp.*", "pattern": "2:4"}, {"match": "*.mlp.*", "target": 0.4}],
            "conflicting_overrides",
            "1/target",
        ),
    ],
)
def test_an_override_that_cannot_count_is_an_error(given: list[dict[str, Any]], code: str, field: str) -> None:
    with pytest.raises(UserError) as caught:
        settle(MATRICES, sparsity(*given))
    assert (caught.value.code, caught.value.field) == (code, f"/sparsity/overrides/{field}")


def test_a_partly_shadowed_override_is_none() -> None:
    resolved = settle(
        MATRICES,
        sparsity(
            {"match": "*.[01].mlp.*", "target": 0.4, "method": "admm"},
            {"match": "*.0.mlp.*", "skip": True},
            {"match": "*.1.mlp.*", "target": 0.3},
        ),
    )
    assert resolved["model.layers.0.mlp.down_proj.weight"].deciding == {"skip": 1}
    assert resolved["model.layers.1.mlp.down_proj.weight"].deciding == {"method": 0, "target": 2}
