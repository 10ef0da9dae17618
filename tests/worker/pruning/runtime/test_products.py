"""A job's numerics: exact is the same on every processor; what fast costs; one for a whole lineage.

Slow: what products cost shows in whole jobs.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.bfloat16 import MediumInBfloat16, amx
from secateur.spec.job import Numerics
from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Recorder, Request, prune
from tests.worker.pruning.lineages import chain, continuing, run_job
from worker.pruning import UserError
from worker.pruning.allocation.output_grams import GradientSums
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import PrunableWeight, build_graph
from worker.pruning.runtime.numerics import search_products, torch_settings

pytestmark = pytest.mark.slow

ADMM = {
    "method": {"name": "admm", "target": "prefix", "output_weighting": "gradients"},
    "sparsity": {"target": 0.5, "allocation": "error"},
}


def report_of(request: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(request["workspace"]) / "report.json").read_text())
    return found


def test_an_exact_job_is_the_same_on_a_processor_that_multiplies_in_bfloat16(request_for: Request) -> None:
    said = []
    for workspace in ("plain", "amx"):
        request, recorder = request_for(workspace=workspace, numerics="exact", **ADMM), Recorder()
        if workspace == "plain":
            output = prune(request, recorder)
        else:
            with amx() as rounding:
                output = prune(request, recorder)
            assert rounding.rounded == 0
        losses = [each.window_losses for each in recorder.evaluations]
        said.append((output.summary, losses, report_of(request)["settings"]))
    assert said[0] == said[1]
    assert said[0][2]["numerics"] == "exact"
    assert said[0][2]["dtype"]["forward"] == "float32"


def test_what_fast_numerics_cost_a_job(request_for: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: gradients come in bfloat16 there, so that their Grams are as quick."""
    perplexities, reports = {}, {}
    precisions: set[str] = set()
    add = GradientSums.add

    def listening(sums: GradientSums, matrix: PrunableWeight, gradients: Tensor) -> None:
        precisions.add(torch.get_float32_matmul_precision())
        if numerics is Numerics.fast:
            assert torch.equal(gradients, gradients.bfloat16().float())
        add(sums, matrix, gradients)

    monkeypatch.setattr(GradientSums, "add", listening)
    for numerics in Numerics:
        precisions.clear()
        request, recorder = request_for(workspace=numerics, numerics=numerics, **ADMM), Recorder()
        with amx() as rounding:
            prune(request, recorder)
        assert (rounding.rounded > 0) == (numerics is Numerics.fast)
        assert precisions == {"medium" if numerics is Numerics.fast else "highest"}
        perplexities[numerics] = recorder.evaluations[-1].perplexity
        reports[numerics] = report_of(request)
    fast, exact = reports[Numerics.fast], reports[Numerics.exact]
    assert fast["settings"]["dtype"]["forward"] == "bfloat16"
    assert perplexities[Numerics.fast] == pytest.approx(perplexities[Numerics.exact], rel=0.05)
    for one, other in zip(fast["matrices"][0], exact["matrices"][0], strict=True):
        assert one["relative_error"] == pytest.approx(other["relative_error"], rel=0.1)


@pytest.mark.parametrize("family", ["llama", "falcon"])
@torch.no_grad()
def test_a_forward_pass_in_float32_is_never_rounded(family: str, tmp_path: Path) -> None:
    """Also where angles of positions, which bfloat16 could not tell apart, are a product of matrices."""
    folder = make_tiny(family, tmp_path / "model")
    with torch_settings(1, Numerics.fast), MediumInBfloat16() as rounding:
        checkpoint = Checkpoint.open(folder)
        runner = BlockRunner(build_graph(folder, checkpoint), checkpoint, torch.device("cpu"))
        block = runner.graph.blocks[0]
        runner.load_block(block, checkpoint.read(block.tensors))
        runner.forward(block, runner.enter(torch.randint(0, 320, (2, 300))))
        assert rounding.rounded == 0
        with search_products():
            runner.forward(block, runner.enter(torch.randint(0, 320, (2, 300))))
        assert rounding.rounded > 0


def test_exact_numerics_cannot_go_on_from_bfloat16(request_for: Request) -> None:
    with amx():
        begun = chain(request_for, "a", method={"name": "wanda"})[0]
        exact = chain(request_for, "a", name="exact", method={"name": "wanda"}, numerics="exact")[0]
        request = request_for(domains="b", workspace="next", method={"name": "wanda"}, numerics="exact")
        with pytest.raises(UserError, match="the lineage began in bfloat16") as refused:
            run_job(continuing(begun, request))
        assert (refused.value.code, refused.value.field) == ("state_mismatch", "/numerics")
        went_on = run_job(continuing(exact, request))
    assert went_on.report()["settings"]["dtype"]["forward"] == "float32"
