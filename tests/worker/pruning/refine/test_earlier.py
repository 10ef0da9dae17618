"""Tuning on a second domain, and what the first one's sums say of it.

Slow: that less is forgotten shows only on a model which has learned something, over whole jobs.
"""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny import WORDS, make_tiny, make_tiny_llama
from tests.worker.pruning.conftest import Recorder, Request, prune
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import build_graph
from worker.pruning.model.loading import dense_weight, parameter_of, view_of
from worker.pruning.refine import earlier as earlier_domains
from worker.pruning.refine.earlier import Earlier, _Anchor, _ratio
from worker.pruning.request import PruningJob
from worker.pruning.state.context import StageContext
from worker.pruning.state.moments import Factors

pytestmark = pytest.mark.slow

TUNED = {"name": "admm", "refine": "block"}


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "qwen3-moe"])
@pytest.mark.parametrize("diagonal", [False, True])
def test_the_pull_is_the_gradient_of_its_loss(tmp_path: Path, family: str, diagonal: bool) -> None:
    folder = make_tiny(family, tmp_path / "model")
    source = Checkpoint.open(folder)
    graph = build_graph(folder, source)
    block = graph.blocks[0]
    BlockRunner(graph, source, torch.device("cpu")).load_block(block, source.read(block.tensors))
    anchors = []
    for matrix in block.matrices:
        inputs = torch.randn(300, matrix.columns)
        sums = inputs.square().mean(0) if diagonal else inputs.T @ inputs / 300
        solved = dense_weight(block, matrix) + 0.1 * torch.randn(matrix.rows, matrix.columns)
        anchors.append(_Anchor(matrix, solved, sums, random.Random(matrix.name).random()))
    paths = {parameter_of(each.matrix) for each in anchors}
    parameters = {path: block.module.get_parameter(path) for path in paths}
    for parameter in parameters.values():
        parameter.requires_grad_(True).grad = torch.ones_like(parameter)
    found = Earlier(block, anchors)
    found.pull()
    with torch.enable_grad():
        total = torch.zeros(())
        for each in anchors:
            change = view_of(block, each.matrix, parameters[parameter_of(each.matrix)]) - each.solved
            whole = each.sums.diag() if diagonal else each.sums
            total = total + each.factor * (change @ whole @ change.T).trace()
        expected = torch.autograd.grad(total, [*parameters.values()])
    assert found.loss() == pytest.approx(float(total.detach()), rel=1e-4)
    for parameter, gradient in zip(parameters.values(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad - 1, gradient, rtol=1e-3, atol=1e-3)


def test_the_more_earlier_domains_count_the_less_they_lose(
    request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first stage, and one that continues a state without Grams, know of none or of their diagonals."""
    lost = []
    for damping in (0.01, 1.0, 100.0):
        monkeypatch.setattr(earlier_domains, "DAMPING", damping)
        recorder = Recorder()
        prune(request_for(domains="ab", method=TUNED, workspace=f"{damping}"), recorder)
        notes = {block.stage: [record.notes["refine"] for record in block.records] for block in recorder.blocks}
        assert all("earlier" not in note for note in notes[0])
        lost.append(notes[1][0]["earlier"] / damping)
    assert lost[0] > lost[1] > lost[2] > 0
    recorder = Recorder()
    selected = {"name": "wanda", "refine": "block"}
    prune(request_for(domains="ab", method=selected, workspace="diagonal"), recorder)
    assert recorder.blocks[-1].records[0].notes["refine"]["earlier"] > 0
    for mode in ("restart", "sequential"):
        recorder = Recorder()
        prune(request_for(domains="ab", method={**TUNED, "mode": mode}, workspace=mode), recorder)
        assert all("earlier" not in each.notes["refine"] for block in recorder.blocks for each in block.records)


def context_of(job: PruningJob) -> StageContext:
    """Of its only stage, as far as ratios ask."""
    return cast(StageContext, SimpleNamespace(job=job, domain_stage=0, domain=job.domains[0]))


@pytest.mark.parametrize("recency", [0.25, 1.0, 2.0])
def test_earlier_domains_count_as_in_the_sums(request_for: Request, recency: float) -> None:
    """Behind three stages, whose sums are made here of ones: what is kept of them over what is added."""
    request = request_for(method={"name": "admm", "recency": recency, "refine": "block"})
    request["domains"][0]["weight"] = 3.0
    job = PruningJob.from_dict(request | {"base": {"domains": ["x", "y", "z"]}})
    stages = [{"domain": each, "weight": 2.0**place, "recency": recency} for place, each in enumerate("xyz")]
    sums, scale = 0.0, None
    for weight in (1.0, 2.0, 4.0):
        by = Factors.of(weight, recency, scale)
        sums, scale = by.keeps * sums + by.weight, by.scale
    by = Factors.of(3.0, recency, scale)
    assert _ratio(context_of(job), {"stages": stages}) == pytest.approx(by.keeps * sums / by.weight)


def test_domains_of_a_state_that_says_nothing_of_them_count_once_each(request_for: Request) -> None:
    request = request_for(method={"name": "admm", "refine": "block"})
    job = PruningJob.from_dict(request | {"base": {"domains": ["x", "y", "z"]}})
    assert _ratio(context_of(job), {}) == 3.0


def test_less_is_forgotten_than_without(
    request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two domains of different words, and a model that was trained on both; perplexity on the first one's text
    after tuning on the second."""
    texts = [tmp_path / f"{name}.txt" for name in ("one", "other")]
    for number, (path, words) in enumerate(zip(texts, (WORDS[:12], WORDS[24:]), strict=True)):
        draw = random.Random(number)
        path.write_text(" ".join(draw.choice(words) for _ in range(3000)))
    model = trained(make_tiny_llama(tmp_path / "model"), texts)
    domains: list[dict[str, Any]] = [
        {
            "name": path.stem,
            "dataset": str(path),
            "evaluation": str(path),
            "calibration": {"samples": 40, "sequence_length": 32},
        }
        for path in texts
    ]
    found = []
    for damping in (0.0, 1.0):
        monkeypatch.setattr(earlier_domains, "DAMPING", damping)
        recorder = Recorder()
        request = request_for(model=str(model), domains=domains, method=TUNED, workspace=f"{damping}")
        request |= {"sparsity": {"target": 0.7}, "evaluation": {"sequence_length": 32, "max_windows": 32}}
        prune(request, recorder)
        found.append({(each.row, each.domain): each.perplexity for each in recorder.evaluations})
    assert found[1][1, "one"] == found[0][1, "one"]
    assert found[1][2, "one"] < found[0][2, "one"]


def trained(folder: Path, texts: list[Path]) -> Path:
    """The model after some steps on both texts in turn."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = [torch.tensor(tokenizer(path.read_text()[:12_000])["input_ids"]) for path in texts]
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(120):
        text = ids[step % 2]
        starts = random.Random(step).sample(range(len(text) - 33), 8)
        batch = torch.stack([text[start : start + 32] for start in starts])
        model(batch, labels=batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
    return folder
