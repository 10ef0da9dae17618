"""A job that continues another ends where one job over all the domains would have ended.

Slow: the oracle is another whole job.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from secateur.spec.metrics import figures
from tests.pairs import pairs
from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Recorder, Request, domain, prune
from tests.worker.pruning.lineages import Ran, chain, continuing, run_job, with_own_texts
from tests.worker.pruning.test_runner import contents, copy_committed

pytestmark = pytest.mark.slow

ADMM = {"name": "admm"}
COPAL = {"name": "copal"}
TOKEN = {"name": "copal", "reading": "token"}
ACROSS = ADMM | {"target": "prefix", "output_weighting": "gradients"}
UPDATED = {"name": "copal", "weight_update": "admm"}


def same_end(whole: Ran, last: Ran) -> None:
    """Weights and state to the byte, and every entry of R that the continued job has."""
    assert last.weights() == whole.weights()
    assert last.states() == whole.states()
    found, expected = last.perplexities(), whole.perplexities()
    assert found.items() <= expected.items()
    final = max(row for row, _ in expected)
    assert {key for key in expected if key[0] in (0, final)} <= found.keys()


@pytest.mark.parametrize(
    ("method", "allocation", "mode"),
    pairs(
        [{"name": "wanda"}, UPDATED, TOKEN, ADMM, ACROSS],
        ["uniform", "error"],
        ["accumulated", "sequential"],
    ),
    ids=lambda value: value if isinstance(value, str) else "+".join(value.values()),
)
def test_going_on_is_the_same_as_never_having_stopped(
    request_for: Request, method: dict[str, str], allocation: str, mode: str
) -> None:
    fields: dict[str, Any] = {
        "method": method | {"mode": mode},
        "sparsity": {"target": 0.5, "allocation": allocation},
    }
    (whole,) = chain(request_for, "abc", name="whole", **fields)
    same_end(whole, chain(request_for, "ab", "c", **fields)[-1])


@pytest.mark.parametrize(
    ("method", "sparsity"),
    [
        ({"name": "magnitude"}, {"target": 0.6, "allocation": "owl"}),
        ({"name": "alps"}, {"pattern": "2:4"}),
        ({"name": "sparsegpt"}, {"target": 0.5, "allocation": "error", "curvature": "plain"}),
        (ACROSS | {"name": "auto"}, {"target": 0.5, "allocation": "uniform"}),
        (
            COPAL | {"reading": "fisher"},
            {"target": 0.5, "overrides": [{"match": "*.mlp.*", "method": "sparsegpt"}]},
        ),
    ],
    ids=lambda value: value.get("name", ""),
)
def test_going_on_by_other_methods_patterns_and_rates(
    request_for: Request, method: dict[str, str], sparsity: dict[str, Any]
) -> None:
    fields: dict[str, Any] = {"method": method, "sparsity": sparsity}
    (whole,) = chain(request_for, "ab", name="whole", **fields)
    same_end(whole, chain(request_for, "a", "b", **fields)[-1])


@pytest.mark.parametrize("method", [{"name": "wanda"}, ADMM, ACROSS], ids=["wanda", "admm", "across"])
@pytest.mark.parametrize("family", ["qwen3-moe", "gpt2"])
def test_going_on_with_experts_and_with_stored_transposed(
    request_for: Request, tmp_path: Path, family: str, method: dict[str, str]
) -> None:
    fields: dict[str, Any] = {
        "model": str(make_tiny(family, tmp_path / "model")),
        "method": method,
        "sparsity": {"target": 0.5, "allocation": "error"},
        "output": {"keep_domain_statistics": True},
    }
    (whole,) = chain(request_for, "abc", name="whole", **fields)
    same_end(whole, chain(request_for, "a", "bc", **fields)[-1])


def test_a_lineage_may_be_cut_anywhere(request_for: Request) -> None:
    fields: dict[str, Any] = {
        "method": UPDATED | {"objective": "least_forgetting"},
        "output": {"state_precision": "float32", "keep_domain_statistics": True},
    }
    (whole,) = chain(request_for, "abc", name="whole", **fields)
    for name, parts in (("one", ("a", "bc")), ("each", ("a", "b", "c"))):
        last = chain(request_for, *parts, name=name, **fields)[-1]
        same_end(whole, last)
        assert last.report()["lineage"] == {"first_stage": 3 - len(parts[-1]), "domains": ["a", "b", "c"]}


def test_one_job_can_be_continued_twice(request_for: Request) -> None:
    (parent,) = chain(request_for, "a", method=ADMM)
    before = parent.weights() | parent.states()
    for other in "bc":
        request = with_own_texts(request_for(domains=other, method=ADMM, workspace=f"child-{other}"))
        child = run_job(continuing(parent, request))
        (whole,) = chain(request_for, f"a{other}", name=f"whole-{other}", method=ADMM)
        same_end(whole, child)
    assert parent.weights() | parent.states() == before


@pytest.mark.parametrize(
    "method", [UPDATED, {"name": "wanda", "mode": "sequential"}], ids=["accumulated", "sequential"]
)
def test_interrupted_continuation_ends_in_the_same_bytes(request_for: Request, method: dict[str, str]) -> None:
    fields: dict[str, Any] = {
        "method": method,
        "sparsity": {"target": 0.5, "allocation": "error"},
        "output": {"keep_domain_statistics": True},
    }
    (parent,) = chain(request_for, "a", **fields)
    whole = run_job(continuing(parent, request_for(domains="bc", workspace="whole", **fields)))
    expected = contents(whole.request, whole.output)
    for stages, blocks in ((0, 1), (1, 0), (1, 1)):
        again = continuing(parent, request_for(domains="bc", workspace=f"again-{stages}-{blocks}", **fields))
        copy_committed(whole.folder, Path(again["workspace"]), stages, blocks)
        if stages:
            # A finished stage has all that the next one needs.
            shutil.rmtree(Path(again["workspace"]) / "base")
        known = [each for each in whole.evaluations if each["row"] <= 1 + stages]
        again["resume"] = {"stages": stages, "blocks": blocks, "evaluations": known}
        listener = Recorder()
        assert contents(again, prune(again, listener)) == expected
        first = stages * 2 + blocks
        assert [(b.stage, b.block) for b in listener.blocks] == [(i // 2, i % 2) for i in range(first, 4)]


def test_earlier_domains_are_evaluated_again_and_bwt_is_the_lineages(request_for: Request) -> None:
    first, second = chain(request_for, "ab", "c", method=ADMM)
    assert [(e.row, e.domain) for e in second.recorder.evaluations] == [(0, "c"), (3, "a"), (3, "b"), (3, "c")]
    report = second.report()
    rows = [[row["perplexity"][name] for name in "abc"] for row in report["evaluation"]["rows"]]
    assert [row["after"] for row in report["evaluation"]["rows"]] == [None, "a", "b", "c"]
    assert [row[2] is None for row in rows] == [False, True, True, False]
    assert all(value is not None for row in rows for value in row[:2])
    found = figures("abc", second.perplexities())
    assert found.model_dump().items() <= report["summary"].items()
    expected = ((rows[3][0] - rows[1][0]) + (rows[3][1] - rows[2][1])) / 2
    assert second.output.summary.bwt == pytest.approx(expected)
    assert [stage["domain"] for stage in report["stages"]] == ["c"]
    assert [stage.stage for stage in second.recorder.stages] == [0]
    assert len(report["matrices"]) == 1
    assert first.report()["lineage"] == {"first_stage": 0, "domains": ["a", "b"]}


def test_an_earlier_domain_without_a_text_has_no_column(request_for: Request, texts: Path) -> None:
    request = request_for(domains=[domain(texts, "a", evaluation=None), domain(texts, "b")])
    parent = run_job(request)
    child = run_job(continuing(parent, request_for(domains="c", workspace="child")))
    assert child.report()["evaluation"]["domains"] == ["b", "c"]
    rows = child.perplexities()
    assert child.output.summary.bwt == pytest.approx(rows[3, "b"] - rows[2, "b"])


def test_the_first_own_stage_is_compared_with_the_masks_of_the_continued_job(request_for: Request) -> None:
    (whole,) = chain(request_for, "abc", name="whole")
    last = chain(request_for, "ab", "c")[-1]
    changed = [record.mask_changed for block in last.recorder.blocks for record in block.records]
    assert changed == [
        r.mask_changed for block in whole.recorder.blocks if block.stage == 2 for r in block.records
    ]
    assert any(changed)
