"""Experts that too few calibration tokens reach."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Recorder, Request, domain, prune
from worker.pruning import skeleton as skeletons
from worker.pruning.checkpoint import Checkpoint
from worker.pruning.skeleton import Block, Matrix
from worker.pruning.starvation import feed
from worker.pruning.statistics import Measured

WIDTH = 8


def group(index: int, *, down: bool) -> list[Matrix]:
    kinds = ["down_proj"] if down else ["gate_proj", "up_proj"]
    parameter = "down_proj" if down else "gate_up_proj"
    return [
        Matrix(f"layer.experts.{index}.{kind}", "experts", 4, WIDTH, expert=skeletons.Expert(parameter, index, 0))
        for kind in kinds
    ]


def measured(tokens: int, size: float = 1.0) -> Measured:
    inputs = size * torch.randn(max(tokens, 1), WIDTH) * (tokens > 0)
    return Measured(inputs.T @ inputs / max(tokens, 1), inputs.mean(dim=0), tokens, {})


def fed(tokens: list[int], *, down: bool) -> tuple[list[Measured], list[Measured], list[Any]]:
    """Statistics before, after, and each expert's share."""
    groups = [group(index, down=down) for index in range(len(tokens))]
    before = [measured(count, 1.0 + index) for index, count in enumerate(tokens)]
    block = Block(0, "layer", torch.nn.Module(), (), ())
    found, shares = feed(block, groups, {g[0].name: m for g, m in zip(groups, before, strict=True)})
    assert set(shares) == {matrix.name for g in groups for matrix in g}
    return before, [found[g[0].name] for g in groups], [shares[g[0].name] for g in groups]


@pytest.mark.parametrize("down", [False, True])
def test_an_expert_with_as_many_tokens_as_inputs_keeps_its_own(down: bool) -> None:
    before, after, shares = fed([WIDTH, 100], down=down)
    assert all(torch.equal(a.gram, b.gram) for a, b in zip(before, after, strict=True))
    assert [share.stand_ins for share in shares] == [0.0, 0.0]


def test_an_expert_without_tokens_reads_as_the_layer_does() -> None:
    before, after, shares = fed([30, 10, 0], down=False)
    pooled = (30 * before[0].gram + 10 * before[1].gram) / 40
    torch.testing.assert_close(after[2].gram, pooled)
    torch.testing.assert_close(after[2].mean, (30 * before[0].mean + 10 * before[1].mean) / 40)
    assert (shares[2].stand_ins, shares[2].tokens, shares[2].layer) == (1.0, 0, "layer.experts")
    assert after[2].tokens == 0


def test_statistics_are_mixed_by_the_tokens_that_are_missing() -> None:
    before, after, shares = fed([30, WIDTH // 4], down=False)
    pooled = (30 * before[0].gram + 2 * before[1].gram) / 32
    assert shares[1].stand_ins == 0.75
    torch.testing.assert_close(after[1].gram, 0.25 * before[1].gram + 0.75 * pooled)


def test_activations_nobody_saw_are_uncorrelated_and_of_one_size() -> None:
    before, after, _ = fed([30, 10, 0], down=True)
    size = (30 * before[0].second.mean() + 10 * before[1].second.mean()) / 40
    torch.testing.assert_close(after[2].gram, size * torch.eye(WIDTH))
    assert torch.equal(after[2].mean, torch.zeros(WIDTH))


def test_activations_seen_seldom_are_drawn_towards_their_own_mean_size() -> None:
    before, after, _ = fed([30, WIDTH // 2], down=True)
    own = before[1]
    torch.testing.assert_close(after[1].gram, 0.5 * own.gram + 0.5 * own.second.mean() * torch.eye(WIDTH))
    assert int(torch.linalg.matrix_rank(own.gram)) < WIDTH
    assert int(torch.linalg.matrix_rank(after[1].gram)) == WIDTH


def test_a_layer_nobody_reaches_is_pruned_by_magnitude() -> None:
    for down in (False, True):
        _, after, _ = fed([0, 0], down=down)
        assert all(torch.equal(each.gram, torch.eye(WIDTH)) for each in after)


@pytest.fixture(scope="module")
def starving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One expert a token; of four, the first two take everything: v·x or −v·x is above half of either."""
    folder = make_tiny("qwen3-moe", tmp_path_factory.mktemp("starving"), num_experts_per_tok=1)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("mlp.gate.weight"):
            row = tensor[0].clone()
            tensors[name] = torch.stack([row, -row, 0.5 * row, -0.5 * row])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


METHODS: list[dict[str, Any]] = [
    {"name": "wanda"},
    {"name": "admm"},
    {"name": "copal", "reading": "token"},
    {"name": "copal", "reading": "dataset"},
    {"name": "copal", "reading": "fisher"},
    {"name": "copal", "weight_update": "admm"},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(method.values()))
def test_a_job_goes_through_experts_without_tokens(
    method: dict[str, Any], starving: Path, request_for: Request, texts: Path
) -> None:
    domains = [domain(texts, name, evaluation=None) for name in "ab"]
    recorder = Recorder()
    output = prune(request_for(model=str(starving), method=method, domains=domains), recorder)
    assert output.summary["zeros"] == round(0.5 * output.summary["weights"])
    warnings = [data["tokens"] for level, _, data in recorder.notes if level == "warning" and "tokens" in data]
    assert len(warnings) == 2 * 2  # two blocks with experts, two stages
    for tokens in warnings:
        empty = {name for name, count in tokens.items() if count == 0}
        assert {name.split(".experts.")[1].partition(".")[0] for name in empty} == {"2", "3"}
        assert len(empty) == 2 * 3


def test_down_matrices_without_tokens_are_pruned_by_magnitude(
    starving: Path, request_for: Request, texts: Path
) -> None:
    request = request_for(model=str(starving), domains=[domain(texts, "a", evaluation=None)])
    prune(request)
    name = "model.layers.0.mlp.experts.2.down_proj.weight"
    dense = Checkpoint.open(starving).read([name])[name]
    pruned = Checkpoint.open(Path(request["workspace"]) / "stage-00/model").read([name])[name]
    columns = dense.shape[1]
    largest = dense.abs().topk(columns // 2, dim=1).indices
    assert torch.equal(pruned, torch.zeros_like(dense).scatter(1, largest, dense.gather(1, largest)))
