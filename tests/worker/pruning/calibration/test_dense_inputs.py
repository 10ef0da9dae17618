"""Inputs measured behind dense blocks: what is summed, how often blocks are passed, and what is the same again.

Slow: that a domain's sums do not depend on what was pruned before, only whole jobs of several stages show.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.worker.pruning.calibration.test_dense_prefix import inputs_of
from tests.worker.pruning.conftest import Request, prune
from tests.worker.pruning.lineages import continuing, run_job
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.windows import calibration_windows
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.graph import Block
from worker.pruning.request import PruningJob

METHOD = {"name": "admm", "inputs": "dense"}
UNIFORM = {"target": 0.5, "allocation": "uniform"}
EXACT = {"state_precision": "float32"}
GROUPS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")


@torch.no_grad()
@pytest.mark.parametrize("name", ["admm", "wanda"])
def test_what_is_summed_is_what_the_dense_models_blocks_read(
    name: str, request_for: Request, tiny_llama: Path
) -> None:
    method = {"name": name, "inputs": "dense"}
    request = request_for(method=method, output=EXACT, numerics="exact", domains="a")
    prune(request)
    job = PruningJob.from_dict(request)
    ids = calibration_windows(Tokenizer(tiny_llama), job.texts["a"], job.domains[0].calibration, "").solved_on
    dense: Any = AutoModelForCausalLM.from_pretrained(tiny_llama)
    for layer in range(2):
        state = load_file(Path(request["workspace"]) / f"stage-00/state/block-{layer:04d}.safetensors")
        for path in GROUPS:
            module = f"model.layers.{layer}.{path}"
            expected = inputs_of(dense, module, ids).square().mean(dim=0)
            torch.testing.assert_close(state[f"{module}.weight/second"].double(), expected, rtol=1e-4, atol=1e-7)


def test_windows_pass_a_block_once_instead_of_twice(request_for: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: Counter[tuple[str, int]] = Counter()
    forward = BlockRunner.forward
    for inputs in ("pruned", "dense"):

        def counted(runner: BlockRunner, block: Block, hidden: Tensor, inputs: str = inputs) -> Tensor:
            passed[inputs, block.index] += len(hidden)
            return forward(runner, block, hidden)

        monkeypatch.setattr(BlockRunner, "forward", counted)
        request = request_for(
            method={"name": "admm", "inputs": inputs}, domains="a", workspace=inputs, sparsity=UNIFORM
        )
        prune(request)
    windows = request["domains"][0]["calibration"]["samples"]
    assert passed["pruned", 0] - passed["dense", 0] == windows
    # Nobody reads what the last one gives.
    assert passed["pruned", 1] == passed["dense", 1]


@pytest.mark.slow
def test_up_to_one_half_is_by_stage(request_for: Request) -> None:
    """Of the job's own target and of further ones, whose models are those of jobs of their own."""
    found = {}
    for target, inputs in ((0.5, "dense"), (0.7, "pruned"), (0.5, "dense_to_half")):
        further = {"further": [0.7, "2:4"], "further_statistics": "own"} if inputs == "dense_to_half" else {}
        found[inputs] = run_job(
            request_for(
                method={"name": "admm", "inputs": inputs},
                sparsity={"target": target, "allocation": "error", **further},
                output=EXACT,
                workspace=inputs,
            )
        )
    one = request_for(method=METHOD, sparsity={"pattern": "2:4"}, output=EXACT, workspace="pattern")
    several = found["dense_to_half"]
    for job, folder in (
        (found["dense"], "model"),
        (found["pruned"], "targets/0.7"),
        (run_job(one), "targets/2-4"),
    ):
        expected = {name.rpartition(":")[2]: tensor for name, tensor in job.tensors("model").items()}
        made = {name.rpartition(":")[2]: tensor for name, tensor in several.tensors(folder).items()}
        assert made.keys() == expected.keys()
        assert all(torch.equal(made[name], expected[name]) for name in made)


@pytest.mark.slow
def test_a_domains_statistics_are_the_same_whatever_was_pruned_before(request_for: Request) -> None:
    output = {**EXACT, "keep_domain_statistics": True}
    found = {}
    for target in (0.3, 0.7):
        fields: dict[str, Any] = {"method": METHOD, "output": output, "sparsity": {"target": target}}
        found[target] = run_job(request_for(workspace=f"at-{target}", domains="ab", **fields)).tensors("state")
    statistics = {
        name for name in found[0.3] if name.endswith(("/gram", "/second", "/mean", "/shift")) or "domain" in name
    }
    assert len(statistics) > 2 * len(GROUPS)
    assert all(torch.equal(found[0.3][name], found[0.7][name]) for name in statistics)


@pytest.mark.slow
def test_a_lineage_and_one_job_end_alike_and_the_sums_are_those_of_each_domain(request_for: Request) -> None:
    fields: dict[str, Any] = {"method": METHOD, "output": EXACT}
    whole = run_job(request_for(workspace="whole", domains="ab", **fields))
    parent = run_job(request_for(workspace="parent", domains="a", **fields))
    child = run_job(continuing(parent, request_for(workspace="child", domains="b", **fields)))
    assert child.weights() == whole.weights()
    alone = run_job(request_for(workspace="alone", domains="b", **fields)).tensors("state")
    before, after = parent.tensors("state"), whole.tensors("state")
    sums = [name for name in after if name.endswith("/second")]
    assert len(sums) == 2 * len(GROUPS)
    for name in sums:
        torch.testing.assert_close(after[name], before[name] + alone[name], rtol=1e-5, atol=0)
