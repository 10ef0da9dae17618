"""A state that lacks what a job needs is refused by name, before any text is pruned for.

Slow: a lacking state is one that a job has left.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.worker.pruning.conftest import Request
from tests.worker.pruning.lineages import Ran, chain, continuing, run_job, with_own_texts
from worker.pruning import UserError
from worker.pruning.continuation import KEY, MEMBERS
from worker.pruning.report.records import HISTORY, read_history
from worker.pruning.state.atomic import write_tensors
from worker.pruning.state.file import read_document

pytestmark = pytest.mark.slow

FIRST = "model.layers.0.self_attn.q_proj.weight"
WANDA: dict[str, Any] = {"name": "wanda"}
ADMM: dict[str, Any] = {"name": "admm"}
PREFIX: dict[str, Any] = {"name": "admm", "target": "prefix"}
WEIGHED: dict[str, Any] = {"name": "admm", "output_weighting": "gradients"}
TOKEN: dict[str, Any] = {"name": "copal", "reading": "token"}
UNIFORM: dict[str, Any] = {"target": 0.5, "allocation": "uniform"}
ZEROS = {"keep_zeros": True}


def refusal(request_for: Request, parent: dict[str, Any], child: dict[str, Any]) -> str:
    (ran,) = chain(request_for, "a", **parent)
    with pytest.raises(UserError) as caught:
        run_job(continuing(ran, request_for(domains="b", workspace="child", **child)))
    assert (caught.value.code, caught.value.field) == ("state_mismatch", "/continues")
    return caught.value.message


@pytest.mark.parametrize(
    ("parent", "child", "message"),
    [
        (WANDA, ADMM, f"has no gram of {FIRST}, which admm solves with"),
        (
            WANDA,
            {"name": "copal", "weight_update": "admm"},
            f"has no gram of {FIRST}, which copal+admm solves with",
        ),
        (ADMM, PREFIX, f"has no cross of {FIRST}, which the target prefix needs: continue with the target dense"),
        (ADMM, WEIGHED, f"has no output_grams of {FIRST}, which weighs them: continue with output_weighting none"),
        (ADMM, TOKEN, f"has no importance of {FIRST} by the reading token"),
        (
            TOKEN,
            TOKEN | {"perturbation": "relative"},
            f"the importance of {FIRST} by perturbation domain_shift, not",
        ),
        (WANDA | {"mode": "sequential"}, WANDA, "was made in mode sequential"),
    ],
)
def test_a_method_without_its_statistics_is_refused(
    request_for: Request, parent: dict[str, Any], child: dict[str, Any], message: str
) -> None:
    assert message in refusal(request_for, {"method": parent}, {"method": child})


@pytest.mark.parametrize(
    ("parent", "child", "message"),
    [
        (UNIFORM, {**UNIFORM, "allocation": "error"}, f"has no survey of {FIRST} for the allocation error"),
        (
            {**UNIFORM, "overrides": [{"match": FIRST, "skip": True}]},
            UNIFORM,
            f"has no moments of {FIRST}: prune the same matrices",
        ),
        (
            UNIFORM,
            {**UNIFORM, "overrides": [{"match": FIRST, "skip": True}]},
            f"has moments of {FIRST}, which this job leaves as it is",
        ),
        (
            UNIFORM,
            {**UNIFORM, "overrides": [{"match": "*.down_proj.weight", "method": "admm"}]},
            "has no gram of model.layers.0.mlp.down_proj.weight, which admm solves with",
        ),
        ({"pattern": "2:4", "channels": "permuted"}, {"pattern": "2:4"}, "was made with channels permuted"),
        (UNIFORM | ZEROS, UNIFORM, "was made with keep_zeros True, and this job's is False: keep it"),
        (UNIFORM, UNIFORM | ZEROS, "was made with keep_zeros False, and this job's is True: keep it"),
    ],
)
def test_other_matrices_or_rates_are_refused(
    request_for: Request, parent: dict[str, Any], child: dict[str, Any], message: str
) -> None:
    assert message in refusal(request_for, {"sparsity": parent}, {"sparsity": child})


def test_a_survey_for_weights_that_adapt_is_not_one_for_weights_that_stay(request_for: Request) -> None:
    sparsity = {"target": 0.5, "allocation": "error"}
    parent, child = {"method": ADMM, "sparsity": sparsity}, {"method": WANDA, "sparsity": sparsity}
    message = refusal(request_for, parent, child)
    assert f"has the survey of {FIRST} for weights that are solved for anew, which these do not" in message


def test_a_survey_by_plain_curvature_serves_weights_that_adapt_and_weights_that_stay(request_for: Request) -> None:
    plain = {"target": 0.5, "allocation": "error", "curvature": "plain"}
    (parent,) = chain(request_for, "a", name="plain", method=ADMM, sparsity=plain)
    assert parent.document()[KEY]["adapts"] is False
    child = request_for(domains="b", workspace="child", method=WANDA, sparsity=plain)
    assert run_job(continuing(parent, child)).output.summary.sparsity == pytest.approx(0.5, abs=1e-5)
    adapting = {"sparsity": plain | {"curvature": "adapting"}, "method": ADMM}
    message = refusal(request_for, {"sparsity": plain, "method": ADMM}, adapting)
    assert f"has the survey of {FIRST} for weights that stay as they are, which these do not" in message


def test_a_survey_is_of_each_matrix_s_own_method(request_for: Request) -> None:
    """FIRST is solved for by its override; the job's method leaves the others' weights as they are."""
    overrides = [{"match": FIRST, "method": "admm"}]
    plain = {"target": 0.5, "allocation": "error"}
    named = {"method": WANDA, "sparsity": {**plain, "overrides": overrides}}
    (parent,) = chain(request_for, "a", **named)
    assert parent.document()[KEY]["adapts"] == [FIRST]
    child = request_for(domains="b", workspace="same", **named)
    assert run_job(continuing(parent, child)).document()[KEY]["adapts"] == [FIRST]
    other = request_for(domains="b", workspace="other", method=WANDA, sparsity=plain)
    with pytest.raises(UserError, match=f"survey of {FIRST} for weights that are solved for anew"):
        run_job(continuing(parent, other))


@pytest.mark.parametrize("mode", ["accumulated", "sequential"])
def test_a_lineage_keeps_the_zeros_of_its_model(request_for: Request, mode: str) -> None:
    fields = {"method": ADMM | {"mode": mode}, "sparsity": UNIFORM | ZEROS}
    first, second = chain(request_for, "a", "b", **fields)
    whole = run_job(with_own_texts(request_for(domains="ab", workspace="whole", **fields)))
    assert first.document()[KEY]["keep_zeros"] is True
    assert second.weights() == whole.weights()


@pytest.mark.parametrize(
    ("parent", "child"),
    [
        (ADMM, WANDA),
        (TOKEN, WANDA),
        (PREFIX, ADMM),
        (WEIGHED, ADMM),
        ({"name": "copal", "perturbation": "relative"}, {"name": "copal"}),
        (ADMM, {"name": "copal", "weight_update": "admm"}),
    ],
)
def test_another_method_goes_on_from_a_state_that_has_what_it_needs(
    request_for: Request, parent: dict[str, Any], child: dict[str, Any]
) -> None:
    (first,) = chain(request_for, "a", method=parent)
    second = run_job(continuing(first, request_for(domains="b", workspace="child", method=child)))
    assert second.output.summary.sparsity == pytest.approx(0.5, abs=1e-5)


def test_a_state_says_what_it_holds(request_for: Request) -> None:
    last = chain(
        request_for,
        *("a", "b"),
        method=ADMM | {"recency": 0.5},
        sparsity={"target": 0.5, "allocation": "error"},
        output={"state_precision": "float32", "keep_domain_statistics": True},
    )[-1]
    said = last.document()[KEY]
    assert said == {
        "kinds": ["domain_grams", "gram", "moments", "survey"],
        "precision": "float32",
        "mode": "accumulated",
        "stages": [
            {"domain": "a", "weight": 1.0, "recency": 0.5},
            {"domain": "b", "weight": 1.0, "recency": 0.5},
        ],
        "allocation": "error",
        "adapts": True,
    }
    assert FIRST in last.document()[MEMBERS][FIRST]


def test_another_lineage_s_state_is_refused(request_for: Request) -> None:
    (parent,) = chain(request_for, "a")
    request = continuing(parent, request_for(domains="b", workspace="child"))
    request["base"] |= {"domains": ["c"], "evaluations": []}
    with pytest.raises(UserError, match=r"of the domains \['a'\], not of \['c'\]"):
        run_job(request)


def test_a_missing_file_is_refused(request_for: Request) -> None:
    (parent,) = chain(request_for, "a")
    request = continuing(parent, request_for(domains="b", workspace="child"))
    (Path(request["workspace"]) / "base/state/block-0001.safetensors").unlink()
    with pytest.raises(UserError, match="no file of block 1"):
        run_job(request)


def as_of_old(request: dict[str, Any]) -> None:
    """Take out of the base's state what older engines did not write."""
    for path in (Path(request["workspace"]) / "base/state").iterdir():
        document = read_document(path)
        for key in (KEY, MEMBERS):
            del document[key]
        tensors = load_file(path)
        document[HISTORY] = json.loads(tensors.pop(HISTORY).numpy().tobytes())
        write_tensors(path, tensors, ("secateur", json.dumps(document, sort_keys=True)))


def test_a_state_of_an_older_engine_is_continued(request_for: Request) -> None:
    (whole,) = chain(request_for, "ab", name="whole", method=ADMM)
    (parent,) = chain(request_for, "a", method=ADMM)
    request = continuing(parent, request_for(domains="b", workspace="child", method=ADMM))
    as_of_old(request)
    child = run_job(request)
    assert child.weights() == whole.weights()
    path = "state/block-0000.safetensors"
    assert read_history(child.artifact(path)) == read_history(whole.artifact(path))
    stages = child.document()[KEY]["stages"]
    assert stages == [{"domain": name, "weight": 1.0, "recency": 1.0} for name in "ab"]


def test_a_state_of_an_older_engine_without_a_gram_is_refused(request_for: Request) -> None:
    (parent,) = chain(request_for, "a")
    request = continuing(parent, request_for(domains="b", workspace="child", method=ADMM))
    as_of_old(request)
    with pytest.raises(UserError, match=f"has no gram of {FIRST}"):
        run_job(request)


def test_a_state_of_an_older_engine_without_a_matrix_is_refused(request_for: Request) -> None:
    skipping = {**UNIFORM, "overrides": [{"match": "*.0.self_attn.o_proj.weight", "skip": True}]}
    (parent,) = chain(request_for, "a", sparsity=skipping)
    request = continuing(parent, request_for(domains="b", workspace="child"))
    as_of_old(request)
    with pytest.raises(UserError, match=r"has no moments of model\.layers\.0\.self_attn\.o_proj\.weight"):
        run_job(request)


def test_kinds_are_the_tensors_in_the_file(request_for: Request) -> None:
    (ran,) = chain(request_for, "a", method=TOKEN, sparsity=UNIFORM)
    assert kinds(ran) == (["importance", "moments"], {"second", "shift", "mean", "importance"})
    (ran,) = chain(request_for, "a", name="other", method=ADMM, sparsity=UNIFORM)
    assert kinds(ran) == (["gram", "moments"], {"second", "shift", "mean", "gram"})
    (ran,) = chain(request_for, "a", name="prefix", method=PREFIX, sparsity=UNIFORM)
    sums = {"second", "shift", "mean", "gram", "cross", "cross_rows"}
    assert kinds(ran) == (["cross", "gram", "moments"], sums)
    (ran,) = chain(request_for, "a", name="weighed", method=WEIGHED, sparsity=UNIFORM)
    sums = {"second", "shift", "mean", "gram", "output_gram", "output_second"}
    assert kinds(ran) == (["gram", "moments", "output_grams"], sums)


def kinds(ran: Ran) -> tuple[list[str], set[str]]:
    return ran.document()[KEY]["kinds"], {name.rpartition("/")[2] for name in ran.tensors("state")}
