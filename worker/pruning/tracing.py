"""What a model gives its decoder blocks beside the hidden states, found out without running a block.

The model is called with its blocks' forwards replaced. A block can be run on its own when it gets exactly what the
block before it gave, and when everything else that it gets is the same for every text of a shape.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worker.pruning.errors import UserError
from worker.pruning.skeleton import Skeleton

LENGTH = 4
"""Tokens of a text that is only looked at for how the blocks are called."""
WHOLE = 2**20
"""Numbers of a parameter that a plan still makes in full."""


class _HeadReached(Exception):
    """Raised inside the model where the output head begins: what follows is not wanted."""


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

    def named(self, module: nn.Module) -> dict[str, Any]:
        """The arguments by the names that the block's forward has for them."""
        names = list(inspect.signature(type(module).forward).parameters)[2:]  # behind self and the hidden states
        names += [f"argument {number}" for number in range(len(names), len(self.args))]
        return dict(zip(names, self.args, strict=False)) | self.kwargs


def first(output: Any) -> Tensor:
    """The hidden states of a block's output: some blocks return a tuple or a list."""
    result: Tensor = output[0] if isinstance(output, tuple | list) else output
    return result


def run_model(model: Any, ids: Tensor) -> Any:
    """The model's own forward pass. ids: (windows, length)."""
    return model(input_ids=ids, use_cache=False)


@contextmanager
def replaced(
    skeleton: Skeleton, replacement: Callable[[int, Tensor], Tensor], *, tuples: bool
) -> Iterator[list[Call]]:
    """Blocks call `replacement(index, hidden)` instead of themselves; yields their calls in order.

    tuples: whether the model expects its blocks to return tuples.
    """
    calls: list[Call] = []

    def forward(index: int, *args: Any, **kwargs: Any) -> Any:
        positional = bool(args)
        hidden = args[0] if positional else kwargs.pop("hidden_states")
        calls.append(Call(positional, tuple(args[1:]), kwargs))
        result = replacement(index, hidden)
        return (result,) if tuples else result

    try:
        for block in skeleton.blocks:
            block.module.forward = lambda *a, _i=block.index, **k: forward(_i, *a, **k)
        yield calls
    finally:
        for block in skeleton.blocks:
            del block.module.forward


def trace(skeleton: Skeleton, ids: Tensor, *, tuples: bool) -> list[Call]:
    """What each block is called with for `ids`, (windows, length). The output head is not run.

    Raises UserError `unsupported_model` when the blocks are not called one after another, each of them once.
    """
    due, given = 0, None

    def hand_on(index: int, hidden: Tensor) -> Tensor:
        nonlocal due, given
        # Each block must get exactly what the block before it gave, or it cannot be run on its own.
        if index != due or (given is not None and hidden is not given):
            raise _unsupported("its decoder blocks are not called one after another")
        due, given = due + 1, hidden.clone()
        return given

    def stop(_module: nn.Module, _args: tuple[Any, ...]) -> None:
        raise _HeadReached

    handle = skeleton.model.get_output_embeddings().register_forward_pre_hook(stop)
    try:
        with replaced(skeleton, hand_on, tuples=tuples) as calls:
            run_model(skeleton.model, ids)
    except _HeadReached:
        pass
    finally:
        handle.remove()
    if len(calls) != len(skeleton.blocks):
        raise _unsupported("it does not call every decoder block once")
    return calls


def plain_tokens(model: Any) -> list[int]:
    """Ids of 2 · LENGTH tokens to which config.json gives no meaning (padding, ends, images); not 0 either."""
    special = {0}
    for config in (model.config, model.config.get_text_config()):
        for name, value in vars(config).items():
            if "token" in name:
                special |= set(value if isinstance(value, list) else [value] if isinstance(value, int) else [])
    vocabulary = model.get_output_embeddings().weight.shape[0]
    wanted = range(min(vocabulary, 2 * LENGTH + len(special)))
    return [token for token in wanted if token not in special][: 2 * LENGTH] or [0]


def check_calls(skeleton: Skeleton, device: torch.device, *, tuples: bool) -> None:
    """Refuse a model whose blocks cannot be run one at a time. Its outer weights are on `device`.

    Raises UserError `unsupported_model` as `trace` does, and when a block gets something beside the hidden states
    that depends on the text's tokens: the calls of the first text would then be replayed for all others.
    """
    _refuse_dependence(skeleton, *_trace_two(skeleton, device, tuples=tuples))


def check_blocks(skeleton: Skeleton) -> None:
    """Refuse from the graph alone, before anything is read, what `check_calls` will refuse.

    Random numbers stand for the weights outside the blocks. A model that does not run so is left to the real
    weights, which decide. Raises UserError `unsupported_model`.
    """
    with torch.no_grad(), stand_ins(skeleton):
        # Which of the two the model expects, only a block that runs can tell.
        found = [attempt(skeleton, tuples=tuples) for tuples in (False, True)]
    traced = [each for each in found if isinstance(each, tuple)]
    refused = [each for each in found if isinstance(each, UserError)]
    if traced:
        _refuse_dependence(skeleton, *traced[0])
    elif len(refused) == len(found):
        raise refused[0]


def _trace_two(skeleton: Skeleton, device: torch.device, *, tuples: bool) -> tuple[list[Call], list[Call]]:
    """The calls for two texts of one shape that share no token."""
    tokens = plain_tokens(skeleton.model)
    one, other = (torch.tensor([text], device=device) for text in (tokens[:LENGTH], tokens[-LENGTH:]))
    return trace(skeleton, one, tuples=tuples), trace(skeleton, other, tuples=tuples)


def attempt(skeleton: Skeleton, *, tuples: bool) -> tuple[list[Call], list[Call]] | UserError | None:
    """`_trace_two`, what it refused, or None where the model does not run."""
    try:
        return _trace_two(skeleton, torch.device("cpu"), tuples=tuples)
    except UserError as error:
        return error
    except MemoryError:
        raise
    except Exception:
        return None  # a model's own code may raise anything


def _refuse_dependence(skeleton: Skeleton, one: list[Call], other: list[Call]) -> None:
    for block, *calls in zip(skeleton.blocks, one, other, strict=True):
        first_call, second_call = (call.named(block.module) for call in calls)
        if (name := difference("", first_call, second_call)) is not None:
            raise _unsupported(
                f"{block.prefix} is called with {name}, which depends on the tokens of the text; blocks can be "
                "run one at a time only if nothing but the hidden states does"
            )


@contextmanager
def stand_ins(skeleton: Skeleton) -> Iterator[None]:
    """Random numbers in the place of every parameter outside the blocks, which are on the meta device."""
    inside = {id(part) for block in skeleton.blocks for part in block.module.modules()}
    outer = [part for part in skeleton.model.modules() if id(part) not in inside]
    before = [(part, *named) for part in outer for named in part.named_parameters(recurse=False)]
    generator = torch.Generator().manual_seed(0)  # not the global one: a job draws nothing from it
    try:
        for part, name, parameter in before:
            setattr(part, name, nn.Parameter(stand_in(parameter, generator), requires_grad=False))
        yield
    finally:
        for part, name, parameter in before:
            setattr(part, name, parameter)


def stand_in(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers in the parameter's shape. A large one is a Hankel matrix, entry (i, j) being number i + j:
    all its rows differ, as tokens' embeddings must, and it takes the memory of one column and one row."""
    shape = parameter.shape
    if parameter.numel() <= WHOLE:
        return torch.randn(shape, generator=generator)
    return torch.randn(sum(shape), generator=generator).as_strided(shape, (1,) * len(shape))


def difference(name: str, one: Any, other: Any) -> str | None:
    """`name`, or the part of it, where the two are not the same. Objects of other kinds are not looked at."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return None if _equal(one, other) else name
    if type(one) is not type(other):
        return name
    if isinstance(one, Mapping):
        inside = {str(key): (one.get(key), other.get(key)) for key in {**one, **other}}
        parts = {f"{name}.{key}" if name else key: pair for key, pair in inside.items()}
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            return name
        parts = {f"{name}[{number}]": pair for number, pair in enumerate(zip(one, other, strict=True))}
    else:
        return name if isinstance(one, int | float | str) and one != other else None
    return next((found for part, pair in parts.items() if (found := difference(part, *pair)) is not None), None)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Entry by entry; what is not a number is equal to itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _unsupported(message: str) -> UserError:
    return UserError("unsupported_model", message, "/model")
