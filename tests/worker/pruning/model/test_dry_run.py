"""A block is pruned on its own only if it is a function of its hidden states, whatever it is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from benchmarks.family_models import make_model
from tests.worker.pruning.conftest import Request
from worker.pruning import PruningJob, UserError, plan
from worker.pruning.model.dry_run import called_layers
from worker.pruning.model.tracing import Call

WIDTH = 8


class Block(nn.Module):
    """Two linear layers and what a test adds to its forward."""

    def __init__(self, use: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.use = use or (lambda block, hidden, **_: block.two(hidden))
        self.state: Any = None

    def forward(self, hidden_states: Tensor, memory: Any = None) -> Tensor:
        return self.use(self, self.one(hidden_states), memory=memory)


@dataclass
class Placed:
    index: int
    prefix: str
    module: nn.Module


@dataclass
class Graph:
    model: Any
    blocks: list[Placed]


def called(*blocks: nn.Module, memory: Any = None) -> list[frozenset[str]]:
    placed = [Placed(i, f"layers.{i}", block.to("meta")) for i, block in enumerate(blocks)]
    call = Call(True, (memory,), {}, (1, 4, WIDTH))
    return called_layers(Graph(None, placed), [call] * len(blocks))


def test_called_layers_are_found_and_weights_stay_on_the_meta_device() -> None:
    block = Block()
    assert called(block) == [{"one", "two"}]
    assert {parameter.device.type for parameter in block.parameters()} == {"meta"}


@pytest.mark.parametrize(
    "use",
    [
        lambda block, hidden, **_: functional.linear(hidden, block.two.weight),
        lambda block, hidden, **_: hidden @ block.two.weight.T + block.two.bias,
        lambda block, hidden, **_: hidden * 2,
    ],
)
def test_a_layer_that_is_never_called_is_known(use: Any) -> None:
    assert called(Block(use)) == [{"one"}]


def test_attention_of_torch_uses_its_output_layer_without_calling_it() -> None:
    class Attention(Block):
        def __init__(self) -> None:
            super().__init__(lambda block, hidden, **_: block.attention(hidden, hidden, hidden)[0])
            self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    assert called(Attention()) == [{"one"}]


def keeps(block: Any, hidden: Tensor, **_: Any) -> Tensor:
    block.state = hidden if block.state is None else block.state + hidden
    return block.two(hidden + block.state)


def writes(block: Any, hidden: Tensor, memory: Any) -> Tensor:
    if isinstance(memory, dict):
        memory["keys"] = hidden
    elif isinstance(memory, list):
        memory.append(hidden)
    else:
        memory += 1
    return block.two(hidden)


def breaks(_block: Any, hidden: Tensor, **_: Any) -> Tensor:
    raise IndexError("no such head")


@pytest.mark.parametrize(
    ("extra", "memory", "message"),
    [
        (keeps, None, "layers.0 gives other outputs when it is called again"),
        (writes, {}, "layers.0 writes into its argument memory.keys"),
        (writes, [], "layers.0 writes into its argument memory"),
        (writes, torch.zeros(WIDTH), "layers.0 writes into its argument memory"),
        (breaks, None, "Block does not run block by block: no such head"),
        (lambda block, hidden, **_: block.two(hidden)[:, :2], None, "hidden states of another shape"),
        (lambda block, hidden, **_: block.two(hidden), DynamicCache(), "is given a cache (DynamicCache)"),
    ],
)
def test_a_block_that_is_more_than_a_function_of_its_hidden_states(extra: Any, memory: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        called(Block(extra), memory=memory)
    assert caught.value.code == "unsupported_model"
    assert message in caught.value.message


def test_equal_blocks_are_run_once_and_others_are_not_taken_for_equal() -> None:
    runs: list[nn.Module] = []

    def count(block: Any, hidden: Tensor, **_: Any) -> Tensor:
        runs.append(block)
        return block.two(hidden) if block.kind == "full" else hidden

    blocks = [Block(count) for _ in range(4)]
    for number, block in enumerate(blocks):
        block.layer_idx = number
        block.kind = "full" if number % 2 else "bare"
    assert called(*blocks) == [{"one"}, {"one", "two"}] * 2
    assert len(runs) == 2 * 3


def test_layers_that_are_never_called_are_skipped_and_said(tmp_path: Path, request_for: Request) -> None:
    found = plan(PruningJob.from_dict(request_for(model=str(make_model(tmp_path / "model", "mamba")))))
    reasons = {entry["name"]: entry["reason"] for entry in found["skipped"]}
    name = "backbone.layers.0.mixer.dt_proj.weight"
    assert reasons[name] == "its layer is never called, so what it reads is not known (Linear)"
    assert {entry["name"].rpartition("mixer.")[2] for entry in found["matched"]} == {
        "in_proj.weight",
        "x_proj.weight",
        "out_proj.weight",
    }


def test_experts_that_do_more_than_their_two_products_are_refused(
    tmp_path: Path, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured there must be what the module computes."""
    own = "transformers.models.mixtral.modeling_mixtral.MixtralExperts.forward"
    folder = make_model(tmp_path / "model", "mixtral")
    job = PruningJob.from_dict(request_for(model=str(folder)))
    assert plan(job)["matched"]
    monkeypatch.setattr(own, lambda self, hidden_states, top_k_index, top_k_weights: 2 * hidden_states)
    with pytest.raises(UserError, match="does more to its experts than their two products"):
        plan(job)
