"""Running a model whose blocks come and go: the shell around the blocks, and one block at a time inside it.

The shell is the model itself with its blocks' forwards replaced: on the way in they record what they are called
with, on the way out they hand through a hidden state computed elsewhere. So masks, rotary tables, soft-caps and
everything else between the blocks stay the model's own code.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from worker.pruning.errors import UserError
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block, ModelGraph
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
from worker.pruning.runtime import memory
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


def load(module: nn.Module, tensors: dict[str, Tensor], device: torch.device) -> None:
    """Put copies of `tensors` (names relative to `module`) in the place of its parameters and buffers, in the
    dtypes that these have: float32, or what a buffer counts in."""
    kept = module.state_dict()
    state = {
        name: tensor.to(device=device, dtype=kept[name].dtype) for name, tensor in tensors.items() if name in kept
    }
    # strict=False: a tied name may be absent; the names were compared before.
    module.load_state_dict(state, assign=True, strict=False)
    module.requires_grad_(False)


def unload(module: nn.Module) -> None:
    """Forget the parameters' values, and give their memory back, so that no block adds to the one before."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.to("meta"), requires_grad=False))
    memory.trim()


class BlockRunner:
    """The model around its blocks. Holds the outer weights (embeddings, last norm, head) on `device`."""

    def __init__(self, graph: ModelGraph, checkpoint: Checkpoint, device: torch.device) -> None:
        self.graph = graph
        self.device = device
        self._calls: dict[tuple[int, int], list[Call]] = {}
        model = graph.model
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

    def load_block(self, block: Block, tensors: dict[str, Tensor]) -> None:
        """tensors: by the checkpoint's names."""
        state = self.graph.names.state(tensors)
        load(block.module, {name.removeprefix(f"{block.prefix}."): state[name] for name in state}, self.device)

    def forward(self, block: Block, hidden: Tensor) -> Tensor:
        """One loaded block over (windows, length, width) on the device. Raises UserError `not_finite`, or
        `unsupported_model` where the model's code fails."""
        with _models_own(hidden.shape[1]):
            found = self.calls(*hidden.shape[:2])[block.index].run(block.module, hidden)
        return check_outputs(found, block.prefix)

    def enter(self, ids: Tensor) -> Tensor:
        """Hidden states before the first block, (windows, length, width), on the device. ids: (windows, len)."""

        def stop(index: int, hidden: Tensor) -> Tensor:
            raise _Reached(hidden)

        try:
            with replaced(self.graph, stop, outputs=self._outputs), _models_own(ids.shape[1]):
                self._run(ids)
        except _Reached as reached:
            return check_outputs(reached.hidden, "what comes before the first block")
        raise UserError("unsupported_model", "the model does not call its decoder blocks", "/model")

    @contextmanager
    def head(self) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
        """What comes after the last block: a function of ids, (windows, positions), and that block's outputs for
        them, (windows, positions, width), which gives logits, (windows, positions, vocabulary).

        No position sees another one there, so that a text can be taken piece by piece. Under autocast the head's
        weight is converted once, not at every call.
        """
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
        self.load_block(block, checkpoint.read(block.tensors))
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
            unload(block.module)
        return len(seen[0]) if seen and isinstance(seen[0], tuple | list) else 0
