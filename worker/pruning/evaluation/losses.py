"""Perplexity of a checkpoint on disk, block by block, over the windows of all domains at once."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from secateur.spec.job import Numerics
from worker.pruning.model.block_runner import BlockRunner, batches
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.runtime import memory
from worker.pruning.runtime.fingerprint import INTEL, processor_vendor
from worker.pruning.runtime.hidden_states import HiddenStates
from worker.pruning.runtime.numerics import check_outputs
from worker.pruning.runtime.prefetch import read_ahead

LOGITS: Final = {"cpu": 7 << 20, "cuda": 1 << 28}
"""Logits held at once, (windows × positions × vocabulary), by the kind of device: on a CPU `memory.reusing` has a
place for as many, in float32; on a GPU fewer would spend more time on reading the head's weight than on using it.
Constants, so that what happens to be free decides nothing."""
FEWEST = 128
"""Positions taken at once, whatever the vocabulary: with fewer, reading the head's weight takes longer than using
it."""


@dataclass(frozen=True)
class TestSet:
    """One domain's evaluation windows, (windows, length), and what two comparable results have in common.

    prefix: how many tokens of each window are the tokenizer's own, which are never predicted.
    """

    domain: str
    windows: Tensor
    protocol: dict[str, Any]
    prefix: int = 0

    @property
    def text(self) -> Tensor:
        """The windows without their prefixes."""
        return self.windows[:, self.prefix :]

    @property
    def context(self) -> int:
        """Tokens of a window that are not predicted: its prefix, or its first one."""
        return max(self.prefix, 1)

    @property
    def tokens(self) -> int:
        """Predicted tokens."""
        return self.windows.shape[0] * (self.windows.shape[1] - self.context)


def native_dtype(device: torch.device) -> str:
    """bfloat16 where the hardware is faster by it, float32 where that would be emulated (hundreds of times slower)
    or takes longer."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # Without AMX, an Intel processor's vectors multiply bfloat16 at half the rate of float32 (measurements.md).
    vectors = torch.cpu._is_avx512_bf16_supported() and processor_vendor() != INTEL
    has = torch.cpu._is_amx_tile_supported() or vectors
    # oneDNN makes these products, and ONEDNN_MAX_CPU_ISA can keep it from what the processor has.
    return "bfloat16" if has and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def forward_dtype(device: torch.device, numerics: Numerics) -> str:
    """Of the products in forward passes."""
    return "float32" if numerics is Numerics.exact else native_dtype(device)


def precision(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Autocast for an evaluation dtype."""
    if dtype == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def window_losses(
    runner: BlockRunner,
    checkpoint: Checkpoint,
    sets: list[TestSet],
    dtype: str,
    hidden: HiddenStates,
    advance: Callable[[int, int], None],
) -> list[list[float]]:
    """Mean loss of every window, per set, computed from `checkpoint`'s blocks inside the shell's outer weights.

    Batches never mix sets, so that one domain's figures do not depend on which others are evaluated.
    hidden: an empty store. advance(block, tokens) is called after every batch; the head counts as one block more.
    """
    parts = [(number, part) for number, item in enumerate(sets) for part in batches(*item.windows.shape)]
    with precision(runner.device, dtype):
        for index, (number, part) in enumerate(parts):
            hidden.append(runner.enter(sets[number].windows[part], index))
        reads = read_ahead(lambda each: checkpoint.read(each.tensors, pinned=runner.pinned), runner.graph.blocks)
        for block, tensors in reads:
            runner.load_block(block, tensors)
            del tensors
            for index, state in enumerate(hidden):
                with memory.reusing():
                    hidden[index] = runner.forward(block, state)
                advance(block.index, state.shape[0] * state.shape[1])
            runner.unload(block)
        memory.trim()
        losses: list[list[float]] = [[] for _ in sets]
        with runner.head() as head, memory.reusing():
            for (number, part), state in zip(parts, hidden, strict=True):
                ids = sets[number].windows[part].to(state.device)
                found = token_losses(head, ids, state, runner.vocabulary, sets[number].context)
                losses[number] += check_outputs(found, "the output head").tolist()
                advance(len(runner.graph.blocks), ids.numel())
    return losses


def mean_loss(losses: list[float]) -> float:
    """Mean over predicted tokens; windows are equally long, so the mean of their means."""
    return math.fsum(losses) / len(losses)


def pieces(ids: Tensor, vocabulary: int, copies: int = 1, context: int = 1) -> list[slice]:
    """The predicting positions of ids, (windows, length), in pieces that make few logits.

    copies: of them held. context: tokens that are not predicted; the last one of them predicts the first other.
    """
    windows, length = ids.shape
    size = max(1, max(FEWEST, LOGITS[ids.device.type] // (copies * vocabulary)) // windows)
    return [slice(start, min(start + size, length - 1)) for start in range(context - 1, length - 1, size)]


def token_losses(
    head: Callable[[Tensor, Tensor], Tensor], ids: Tensor, hidden: Tensor, vocabulary: int, context: int
) -> Tensor:
    """Mean loss of each window of a batch, (windows,), float64. hidden: the last block's outputs. context: see
    `pieces`."""
    windows, length = ids.shape
    total = torch.zeros(windows, dtype=torch.float64, device=ids.device)
    for piece in pieces(ids, vocabulary, context=context):
        logits = head(ids[:, piece], hidden[:, piece]).float()
        targets = ids[:, piece.start + 1 : piece.stop + 1]
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        total += loss.view(windows, -1).double().sum(dim=1)
    return total / (length - context)
