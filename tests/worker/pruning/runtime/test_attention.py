"""Attention as a GPU has it: which kernel, in what order it goes back, and how much it holds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.backends import cuda
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tests.pretend_gpu import pretend_gpu
from tests.tiny import make_tiny
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import build_graph
from worker.pruning.runtime import attention as room
from worker.pruning.runtime.attention import GpuAttention, attention, bound_own_formula
from worker.pruning.runtime.numerics import torch_settings

LENGTH = 24
BACKWARD = "_scaled_dot_product_flash_attention_for_cpu_backward"


class Watching(TorchDispatchMode):
    """The largest tensor that is made, and torch's mode of determinism during attention's backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.modes = 0, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if BACKWARD in str(func):
            self.modes.append(torch.get_deterministic_debug_mode())
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.largest = max(self.largest, found.numel())
        return found


def given(width: int = 8, heads: int = 4, kept: int = 4, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Query, key and value of two windows."""
    shapes = [(2, heads if n == 0 else kept, LENGTH, width) for n in range(3)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def window_mask(size: int) -> Tensor:
    places = torch.arange(LENGTH)
    behind = places.unsqueeze(1) - places
    return (behind >= 0) & (behind < size)


CASES: dict[str, dict[str, Any]] = {
    "causal": {"is_causal": True},
    "everything": {},
    "sliding window": {"attn_mask": window_mask(5)},
    "bias": {"attn_mask": torch.randn(1, 4, LENGTH, LENGTH)},
    "scaled": {"is_causal": True, "scale": 0.3},
}


def run(inputs: list[Tensor], **options: Any) -> list[Tensor]:
    """The output and the gradients."""
    output = functional.scaled_dot_product_attention(*inputs, **options)
    gradients = torch.autograd.grad(
        output, inputs, torch.ones_like(output) * torch.arange(1, output.shape[-1] + 1)
    )
    return [output, *gradients]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scores", [7, LENGTH**2, 3 * LENGTH**2, 1 << 28])
def test_pieces_are_the_whole(case: str, scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SCORES", scores)
    inputs = given()
    expected = run(inputs, **CASES[case])
    with GpuAttention():  # no kernel takes a CPU's tensors
        found = run(inputs, **CASES[case])
        again = run(inputs, **CASES[case])
    for one, other, same in zip(found, expected, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert torch.equal(one, same)


def test_no_more_scores_than_fit_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SCORES", 4 * LENGTH)
    inputs = given()
    with GpuAttention(), Watching() as watching:
        run(inputs, is_causal=True)
    assert watching.largest == max(4 * LENGTH, inputs[0].numel()) < LENGTH**2 * 4


def test_grouped_queries_read_their_own_heads() -> None:
    inputs = given(kept=2)
    expected = run(inputs, is_causal=True, enable_gqa=True)
    with GpuAttention():
        found = run(inputs, is_causal=True, enable_gqa=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", ["flash", "efficient"])
def test_a_kernel_goes_back_in_a_fixed_order_and_nothing_else_is_forbidden(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"can_use_{kernel}_attention"
    monkeypatch.setattr(cuda, name, lambda params, debug=False: True)
    inputs, mode = given(), torch.get_deterministic_debug_mode()
    with Watching() as watching:
        with GpuAttention():
            output = functional.scaled_dot_product_attention(*inputs, is_causal=True)
        (output * 2).cumsum(dim=2).sum().backward()
    assert watching.modes == [2]
    assert torch.get_deterministic_debug_mode() == mode


def test_autocast_decides_what_a_kernel_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def can_use(params: cuda.SDPAParams, debug: bool = False) -> bool:
        asked.append(params.query.dtype)
        return True

    monkeypatch.setattr(cuda, "can_use_flash_attention", can_use)
    with GpuAttention(), torch.autocast("cpu", torch.bfloat16):
        found = functional.scaled_dot_product_attention(*given(), is_causal=True)
    assert (found.dtype, asked) == (torch.bfloat16, [torch.bfloat16])


@pytest.mark.parametrize("family", ["gemma2", "bloom"])
def test_a_models_own_formula_is_the_same_for_some_queries_at_a_time(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(make_tiny(family, tmp_path / family))
    length, found, largest = 64, [], []
    states = torch.randn(2, length, 64)
    for bounded in (False, True):
        graph = build_graph(checkpoint.folder, checkpoint)
        if bounded:
            monkeypatch.setattr(room, "SCORES", 2 * 4 * length * 16)
            bound_own_formula(graph.model)
        with torch.no_grad():
            runner = BlockRunner(graph, checkpoint, torch.device("cpu"))
            runner.load_block(graph.blocks[0], checkpoint.read(graph.blocks[0].tensors))
            runner.calls(2, length)
        given = states.clone().requires_grad_()
        with Watching() as watching:
            output = runner.forward(graph.blocks[0], given)
            found.append((output, torch.autograd.grad(output.square().sum(), given)[0]))
        largest.append(watching.largest)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    whole = 2 * 4 * length**2
    assert largest[0] >= whole
    assert largest[1] < whole or family == "bloom", "bloom's is no function that transformers could replace"


def test_a_cpu_s_attention_is_left_alone() -> None:
    with attention(torch.device("cpu")) as own:
        assert own is None


@pytest.mark.parametrize(("dtype", "width"), [(torch.bfloat16, 8), (torch.float32, 8), (torch.bfloat16, 264)])
@pytest.mark.parametrize("kept", [2, 4])
def test_on_a_gpu_everything_adds_up_in_a_fixed_order(dtype: torch.dtype, width: int, kept: int) -> None:
    cuda_device = torch.device("cuda")
    host = given(width, kept=kept, dtype=dtype)
    with (
        pretend_gpu() as counts,
        torch_settings(1, device=cuda_device),
        torch.enable_grad(),
        attention(cuda_device),
    ):
        inputs = [each.detach().to(cuda_device).requires_grad_() for each in host]
        functional.scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=kept == 2).sum().backward()
    assert not counts.unordered
