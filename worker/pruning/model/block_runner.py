"""Running a model whose blocks come and go: the shell around the blocks, and one block at a time inside it.

The shell is the model itself with its blocks' forwards replaced: on the way in they record what they are called
with, on the way out they hand through a hidden state computed elsewhere. So masks, rotary tables, soft-caps and
everything else between the blocks stay the model's own code.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from worker.pruning.errors import UserError
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block, ModelGraph, PrunableWeight
from worker.pruning.model.loading import load, load_block, put_weight, unload
from worker.pruning.model.tracing import (
    LENGTH,
    Call,
    check_calls,
    first,
    plain_tokens,
    replaced,
    run_model,
    trace,
)
from worker.pruning.runtime.attention import attention, bound_own_formula
from worker.pruning.runtime.numerics import check_outputs

BATCH_TOKENS = 4096
"""Tokens of one forward. A constant, because a resumed job must repeat the shapes of the first."""


class _Reached(Exception):
    """Raised inside the shell when the first block is reached: what follows is not wanted."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


FAULTS: Final = (
    LookupError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    RuntimeError,
)
"""What a model's code raises for texts that it cannot take. Of these very types: a device's trouble has others."""


@contextmanager
def _models_own(length: int) -> Iterator[None]:
    """What the model's code raises is the model's fault, or that of windows which it is not made for: `length`."""
    try:
        yield
    except FAULTS as error:
        said = str(error).strip().splitlines() or [""]
        if type(error) not in FAULTS or re.search("memory|CUDA", said[0], re.IGNORECASE):
            raise
        message = f"the model does not run on windows of {length} tokens: {said[0][:300] or type(error).__name__}"
        raise UserError("unsupported_model", message, "/model") from error


def batches(count: int, length: int) -> list[slice]:
    """`count` windows of `length` tokens in slices of at most BATCH_TOKENS."""
    size = max(1, BATCH_TOKENS // length)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


Head = Callable[[Tensor, Tensor], Tensor]
"""See `BlockRunner.head`."""


class BlockRunner:
    """The model around its blocks. Holds the outer weights (embeddings, last norm, head) on `device`.

    Where there are others, each has the whole model on a device of its own, and is loaded with the same blocks; a
    batch is computed on the device that its hidden states are on.
    """

    def __init__(
        self,
        graph: ModelGraph,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: str = "float32",
        others: Sequence["BlockRunner"] = (),
    ) -> None:
        """dtype: of products in blocks; where it is not float32, blocks are to be run under `precision`.

        others: of the same model, by a graph of their own.
        """
        self.graph = graph
        self.device = device
        self.everyone = (self, *others)
        self.devices = tuple(each.device for each in self.everyone)
        self._unchecked: deque[tuple[Tensor, str]] = deque()
        self.pinned = device.type == "cuda"
        """Whether what is to be loaded should be read into page-locked memory."""
        self._forward = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self._calls: dict[tuple[int, int], list[Call]] = {}
        model = graph.model
        if device.type == "cuda":
            bound_own_formula(model)
        load(model, graph.names.state(checkpoint.read(graph.outer)), device)
        # The library's own rule, as it loads a checkpoint: what is stored and differs is not tied, whatever the
        # configuration says, and of two tied tensors the one that is stored serves both.
        model.tie_weights(missing_keys=set(graph.names.missing), recompute_mapping=False)
        for name, buffer in list(model.named_buffers()):
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, buffer.to(device))
        self._plain = plain_tokens(model)[0]
        self._outputs = self._trace_first(checkpoint)
        check_calls(graph, device, outputs=self._outputs)
        self.vocabulary: int = model.get_output_embeddings().weight.shape[0]

    def on(self, device: torch.device) -> "BlockRunner":
        """The one on that device; without others this one, whatever the device is called."""
        return next((each for each in self.everyone[1:] if each.device == device), self)

    def own(self, block: Block) -> Block:
        """A block of any of them as this one has it."""
        return self.graph.blocks[block.index]

    def load_block(self, block: Block, tensors: dict[str, Tensor]) -> None:
        """On every device. tensors: by the checkpoint's names."""
        self.settle()
        for each in self.everyone:
            load_block(each.own(block), tensors, each.graph.names.state, each.device, each._forward)

    def put_weight(self, block: Block, matrix: PrunableWeight, written: Tensor) -> None:
        """Replace a matrix of a loaded block on every device. written: as its file has it, on any of them."""
        for each in self.everyone:
            put_weight(each.own(block), matrix, written.to(each.device))

    def unload(self, block: Block) -> None:
        self.settle()
        for each in self.everyone:
            unload(each.own(block))

    def forward(self, block: Block, hidden: Tensor) -> Tensor:
        """One loaded block over (windows, length, width) on a device. Raises UserError `not_finite`, or
        `unsupported_model` where the model's code fails.

        With several devices outputs are looked at (`settle`) when each has computed as much again: to look is to
        wait, and meanwhile the others would have nothing to do.
        """
        found = self.run(block, hidden)
        self._unchecked.append((found.detach(), block.prefix))
        self._settle_to(len(self.everyone) - 1)
        return found

    def settle(self) -> None:
        """Look at all outputs that were not looked at yet. Raises UserError `not_finite`."""
        self._settle_to(0)

    def _settle_to(self, most: int) -> None:
        while len(self._unchecked) > most:
            check_outputs(*self._unchecked.popleft())

    def run(self, block: Block, hidden: Tensor) -> Tensor:
        """The same, whatever comes out of it: of weights that are not the model's own."""
        return self.on(hidden.device)._run_block(block, hidden)

    def _run_block(self, block: Block, hidden: Tensor) -> Tensor:
        with _models_own(hidden.shape[1]), torch.no_grad():
            call = self.calls(*hidden.shape[:2])[block.index]
        with _models_own(hidden.shape[1]), attention(self.device):
            return call.run(self.own(block).module, hidden)

    def enter(self, ids: Tensor, number: int = 0) -> Tensor:
        """Hidden states before the first block, (windows, length, width). ids: (windows, length). number: of the
        batch; devices take turns."""
        return self.everyone[number % len(self.everyone)]._enter(ids)

    def _enter(self, ids: Tensor) -> Tensor:
        def stop(index: int, hidden: Tensor) -> Tensor:
            raise _Reached(hidden)

        try:
            with replaced(self.graph, stop, outputs=self._outputs), _models_own(ids.shape[1]):
                self._run(ids)
        except _Reached as reached:
            return check_outputs(reached.hidden, "what comes before the first block")
        raise UserError("unsupported_model", "the model does not call its decoder blocks", "/model")

    @contextmanager
    def head(self) -> Iterator[Head]:
        """What comes after the last block: a function of ids, (windows, positions), and that block's outputs for
        them, (windows, positions, width), which gives logits, (windows, positions, vocabulary).

        No position sees another one there, so that a text can be taken piece by piece. Under autocast the head's
        weight is converted once, not at every call.
        """
        with ExitStack() as stack:
            heads = {each.device: stack.enter_context(each._head()) for each in self.everyone}
            yield lambda ids, hidden: heads[self.on(hidden.device).device](ids, hidden)

    @contextmanager
    def _head(self) -> Iterator[Head]:
        given: list[Tensor] = []
        last = len(self.graph.blocks) - 1

        def hand_in(index: int, hidden: Tensor) -> Tensor:
            return given[-1] if index == last else hidden

        def logits(ids: Tensor, hidden: Tensor) -> Tensor:
            given.append(hidden)
            found: Tensor = self._run(ids).logits
            given.clear()
            calls.clear()  # what blocks were called with: there are many pieces
            return found

        output = self.graph.model.get_output_embeddings()
        weight = output.weight
        if torch.is_autocast_enabled(self.device.type):
            cast = weight.to(torch.get_autocast_dtype(self.device.type))
            output.weight = nn.Parameter(cast, requires_grad=False)
        try:
            with replaced(self.graph, hand_in, outputs=self._outputs) as calls:
                yield logits
        finally:
            output.weight = weight

    def calls(self, windows: int, length: int) -> list[Call]:
        """What each block is called with for a batch of this shape; computed once a shape."""
        key = (windows, length)
        if key not in self._calls:
            # One text stands for all: that the tokens do not matter was checked.
            ids = torch.full(key, self._plain, device=self.device)
            self._calls[key] = trace(self.graph, ids, outputs=self._outputs)
        return self._calls[key]

    def _run(self, ids: Tensor) -> Any:
        return run_model(self.graph.model, ids.to(self.device))

    def _trace_first(self, checkpoint: Checkpoint) -> int:
        """How many outputs are in the tuples that blocks return, 0 for no tuple: run the first one for real."""
        block = self.graph.blocks[0]
        load_block(block, checkpoint.read(block.tensors), self.graph.names.state, self.device)
        seen: list[Any] = []

        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            seen.append(output)
            raise _Reached(first(output))

        handle = block.module.register_forward_hook(keep)
        try:
            self._run(torch.full((1, LENGTH), self._plain))
        except _Reached:
            pass
        finally:
            handle.remove()
            unload(block)
        return len(seen[0]) if seen and isinstance(seen[0], tuple | list) else 0
