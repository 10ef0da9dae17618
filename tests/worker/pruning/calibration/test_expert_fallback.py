"""Experts that too few calibration tokens reach.

Slow: which experts starve is decided by a router on a text.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Recorder, Request, domain, prune
from worker.pruning.calibration.expert_fallback import feed
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block, Expert, PrunableWeight
from worker.pruning.state.file import read_state
from worker.pruning.state.moments import Accumulated, Measured, accumulate, alone

pytestmark = pytest.mark.slow

WIDTH = 8


def group(index: int, *, down: bool) -> list[PrunableWeight]:
    kinds = ["down_proj"] if down else ["gate_proj", "up_proj"]
    parameter = "down_proj" if down else "gate_up_proj"
    return [
        PrunableWeight(f"layer.experts.{index}.{kind}", "experts", 4, WIDTH, expert=Expert(parameter, index, 0))
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
    assert (shares[2].stand_ins, shares[2].tokens, shares[2].module) == (1.0, 0, "layer.experts")
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


def fed_later(tokens: int, earlier: int, *, down: bool) -> tuple[Accumulated, Measured, float]:
    """One expert's sums of an earlier domain, its statistics in the next, and the stand-ins' part of these."""
    groups = [group(index, down=down) for index in range(2)]
    names = [own[0].name for own in groups]
    sums = accumulate(None, measured(earlier), keep_gram=True)
    before = {names[0]: accumulate(None, measured(100), keep_gram=True), names[1]: sums}
    block = Block(0, "layer", torch.nn.Module(), (), ())
    new = {names[0]: measured(100), names[1]: measured(tokens, 2.0)}
    found, shares = feed(block, groups, new, None, before)
    return sums, found[names[1]], shares[names[1]].stand_ins


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("keeps", [1.0, 0.5])
def test_sums_that_suffice_stay_as_they_are_without_new_tokens(down: bool, keeps: float) -> None:
    sums, own, stand_ins = fed_later(0, WIDTH, down=down)
    after = accumulate(sums, own, keep_gram=True, weight=3.0, keeps=keeps)
    assert (stand_ins, after.domains, after.tokens) == (0.0, 1, WIDTH)
    assert torch.equal(after.mean, sums.mean)
    for part in ("gram", "second", "shift"):
        assert torch.equal(getattr(after, part), keeps * getattr(sums, part)), part
    assert not alone(sums, own).shift.any()


@pytest.mark.parametrize("down", [False, True])
def test_few_new_tokens_count_as_part_of_a_domain(down: bool) -> None:
    sums, own, stand_ins = fed_later(WIDTH // 4, WIDTH, down=down)
    after = accumulate(sums, own, keep_gram=True, weight=2.0)
    assert (stand_ins, after.domains, after.tokens) == (0.0, 1.25, WIDTH + WIDTH // 4)
    assert after.gram is not None
    assert sums.gram is not None
    torch.testing.assert_close(after.gram, sums.gram + 0.5 * own.gram)
    torch.testing.assert_close(after.mean, sums.mean + 0.25 * own.mean)
    shift = own.second - 2 * sums.mean * own.mean + sums.mean**2
    torch.testing.assert_close(after.shift, sums.shift + 0.5 * shift)


def test_enough_new_tokens_count_as_a_domain() -> None:
    sums, own, _ = fed_later(WIDTH, 0, down=False)
    assert accumulate(sums, own, keep_gram=True).domains == 2


def test_stand_ins_go_in_where_sums_and_tokens_are_too_few_together() -> None:
    sums, own, stand_ins = fed_later(WIDTH // 4, WIDTH // 2, down=False)
    assert stand_ins == 0.75
    assert accumulate(sums, own, keep_gram=True).domains == 2


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
    assert output.summary.zeros == round(0.5 * output.summary.weights)
    for result in (result for result in recorder.blocks if result.block != 1):  # those with experts
        shares = [record.notes["expert"] for record in result.records if "expert" in record.notes]
        empty = [share for share in shares if share["tokens"] == 0]
        assert {share["index"] for share in empty} == {2, 3}
        assert len(empty) == 2 * 3
        assert all(share["stand_ins"] == 1.0 for share in empty)
    said = [data for _, _, data in recorder.notes if data.get("code") == "expert_fallback"]
    listed = [each.data for each in output.summary.warnings if each.code == "expert_fallback"]
    assert [{"code": "expert_fallback", **data} for data in listed] == said
    assert [(each["stage"], each["domain"], each["of"]) for each in said] == [(0, "a", 24), (1, "b", 24)]
    for each in said:
        assert set(each["modules"]) == {f"model.layers.{block}.mlp.experts" for block in (0, 2)}
        assert each["matrices"] == sum(each["modules"].values()) >= 2 * 6


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


@pytest.mark.parametrize(
    "method",
    [{"name": "sparsegpt"}, {"name": "copal", "reading": "token"}, {"name": "copal", "reading": "own_terms"}],
    ids=lambda method: "-".join(method.values()),
)
def test_a_domain_leaves_experts_that_it_does_not_use_alone(
    method: dict[str, Any], request_for: Request, texts: Path, tmp_path: Path
) -> None:
    """The second domain is one word over and over, which reaches two or three of four experts."""
    model = make_tiny("qwen3-moe", tmp_path / "model", num_experts_per_tok=1)
    (tmp_path / "word.txt").write_text("apple " * 1500)
    first, second = domain(texts, "a", evaluation=None), domain(texts, "b", evaluation=None)
    second["dataset"] = str(tmp_path / "word.txt")
    for each in (first, second):
        each["calibration"]["samples"] = 40
    recorder = Recorder()
    request = request_for(
        model=str(model), method=method, domains=[first, second], output={"state_precision": "float32"}
    )
    prune(request, recorder)
    left_alone = 0
    for block in (0, 2):  # those with experts
        paths = [Path(request["workspace"]) / f"stage-0{n}/state/block-{block:04d}.safetensors" for n in (0, 1)]
        before, after = (read_state(path, torch.device("cpu")) for path in paths)
        for name in (name for name in after if ".experts." in name):
            one, two = before[name], after[name]
            if one.tokens < len(one.mean) or two.tokens > one.tokens:
                continue
            left_alone += 1
            assert two.domains == 1
            for part in ("gram", "second", "shift", "mean"):
                was, now = getattr(one, part), getattr(two, part)
                assert was is now is None or torch.equal(was, now), (name, part)
            assert all(torch.equal(value, two.importance[key]) for key, value in one.importance.items())
    assert left_alone >= 2
    for record in (record for result in recorder.blocks if result.stage == 1 for record in result.records):
        share = record.notes.get("expert")
        if share is not None and share["tokens"] == 0 and share["carried"] >= share["threshold"]:
            assert (share["stand_ins"], record.relative_error, record.mask_overlap) == (0.0, None, 1.0)
