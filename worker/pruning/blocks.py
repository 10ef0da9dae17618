"""Running a model whose blocks come and go: the shell around the blocks, and one block at a time inside it.

The shell is the model itself with its blocks' forwards replaced: on the way in they record what they are called
with, on the way out they hand through a hidden state computed elsewhere. So masks, rotary tables, soft-caps and
everything else between the blocks stay the model's own code.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worker.pruning import heap
from worker.pruning.checkpoint import Checkpoint
from worker.pruning.errors import UserError
from worker.pruning.skeleton import Block, Skeleton

BATCH_TOKENS = 4096
"""Tokens of one forward. A constant, because a resumed job must repeat the shapes of the first."""


class _Reached(Exception):
    """Raised inside the shell when the first block is reached: what follows is not wanted."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


@dataclass(frozen=True)
class Call:
    """What the model gives one block beside the hidden states."""

    positional: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, module: nn.Module, hidden: Tensor) -> Tensor:
        if self.positional:
            return first(module(hidden, *self.args, **self.kwargs))
        return first(module(hidden_states=hidden, **self.kwargs))


def first(output: Any) -> Tensor:
    """The hidden states of a block's output: some blocks return a tuple."""
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def batches(count: int, length: int) -> list[slice]:
    """`count` windows of `length` tokens in slices of at most BATCH_TOKENS."""
    size = max(1, BATCH_TOKENS // length)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def load(module: nn.Module, tensors: dict[str, Tensor], device: torch.device) -> None:
    """Put float32 copies of `tensors` (names relative to `module`) in the place of its parameters."""
    state = {name: tensor.to(device=device, dtype=torch.float32) for name, tensor in tensors.items()}
    # strict=False: a tied name may be absent; the names were compared before.
    module.load_state_dict(state, assign=True, strict=False)
    module.requires_grad_(False)


def unload(module: nn.Module) -> None:
    """Forget the parameters' values, and give their memory back, so that no block adds to the one before."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.to("meta"), requires_grad=False))
    heap.trim()


class Shell:
    """The model around its blocks. Holds the outer weights (embeddings, last norm, head) on `device`."""

    def __init__(self, skeleton: Skeleton, checkpoint: Checkpoint, device: torch.device) -> None:
        self.skeleton = skeleton
        self.device = device
        self._calls: dict[tuple[int, int], list[Call]] = {}
        model = skeleton.model
        load(model, skeleton.names.state(checkpoint.read(skeleton.outer)), device)
        model.tie_weights()
        for name, buffer in list(model.named_buffers()):
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, buffer.to(device))
        self._tuples = self._trace_first(checkpoint)
        self._chunks = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.vocabulary: int = model.get_output_embeddings().weight.shape[0]

    def load_block(self, block: Block, tensors: dict[str, Tensor]) -> None:
        """tensors: by the checkpoint's names."""
        state = self.skeleton.names.state(tensors)
        load(block.module, {name.removeprefix(f"{block.prefix}."): state[name] for name in state}, self.device)

    def forward(self, block: Block, hidden: Tensor) -> Tensor:
        """One loaded block over (windows, length, width) on the device."""
        return self.calls(*hidden.shape[:2])[block.index].run(block.module, hidden)

    def enter(self, ids: Tensor) -> Tensor:
        """Hidden states before the first block, (windows, length, width), on the device. ids: (windows, len)."""

        def stop(index: int, hidden: Tensor) -> Tensor:
            raise _Reached(hidden)

        try:
            with self._replaced(stop):
                self._run(ids)
        except _Reached as reached:
            return reached.hidden
        raise UserError("unsupported_model", "the model does not call its decoder blocks", "/model")

    def leave(self, ids: Tensor, hidden: Tensor, positions: Tensor) -> Tensor:
        """Logits (windows, positions, vocabulary) after the last block's `hidden`. positions: indices, 1-D."""
        last = len(self.skeleton.blocks) - 1
        with self._replaced(lambda index, state: hidden if index == last else state):
            if self._chunks:
                logits: Tensor = self._run(ids, logits_to_keep=positions).logits
                return logits
            logits = self._run(ids).logits
        return logits[:, positions]

    def calls(self, windows: int, length: int) -> list[Call]:
        """What each block is called with for a batch of this shape; computed once a shape."""
        key = (windows, length)
        if key not in self._calls:
            self._calls[key] = self._trace(windows, length)
        return self._calls[key]

    def _run(self, ids: Tensor, **kwargs: Any) -> Any:
        return self.skeleton.model(input_ids=ids.to(self.device), use_cache=False, **kwargs)

    @contextmanager
    def _replaced(self, replacement: Callable[[int, Tensor], Tensor]) -> Iterator[list[Call]]:
        """Blocks call `replacement(index, hidden)` instead of themselves; yields their calls in order."""
        calls: list[Call] = []

        def forward(index: int, *args: Any, **kwargs: Any) -> Any:
            positional = bool(args)
            hidden = args[0] if positional else kwargs.pop("hidden_states")
            calls.append(Call(positional, tuple(args[1:]), kwargs))
            result = replacement(index, hidden)
            return (result,) if self._tuples else result

        try:
            for block in self.skeleton.blocks:
                block.module.forward = lambda *a, _i=block.index, **k: forward(_i, *a, **k)
            yield calls
        finally:
            for block in self.skeleton.blocks:
                del block.module.forward

    def _trace(self, windows: int, length: int) -> list[Call]:
        ids = torch.zeros((windows, length), dtype=torch.long)
        due, given = 0, None

        def hand_on(index: int, hidden: Tensor) -> Tensor:
            nonlocal due, given
            # Each block must get exactly what the block before it gave, or it cannot be run on its own.
            if index != due or (given is not None and hidden is not given):
                raise UserError(
                    "unsupported_model", "its decoder blocks are not called one after another", "/model"
                )
            due, given = due + 1, hidden.clone()
            return given

        with self._replaced(hand_on) as calls:
            self._run(ids, **({"logits_to_keep": 1} if self._chunks else {}))
        if len(calls) != len(self.skeleton.blocks):
            raise UserError("unsupported_model", "it does not call every decoder block once", "/model")
        return calls

    def _trace_first(self, checkpoint: Checkpoint) -> bool:
        """Whether blocks return tuples: run the first one for real."""
        block = self.skeleton.blocks[0]
        self.load_block(block, checkpoint.read(block.tensors))
        seen: list[Any] = []

        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            seen.append(output)
            raise _Reached(first(output))

        handle = block.module.register_forward_hook(keep)
        try:
            self._run(torch.zeros((1, 4), dtype=torch.long))
        except _Reached:
            pass
        finally:
            handle.remove()
            unload(block.module)
        return bool(seen) and isinstance(seen[0], tuple)
