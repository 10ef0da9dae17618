"""What a model gives its decoder blocks beside the hidden states, found out without running a block.

The model is called with its blocks' forwards replaced. A block can be run on its own when it gets exactly what the
block before it gave, and when everything else that it gets is the same for every text of a shape.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from worker.machine_errors import trouble_of
from worker.pruning.errors import UserError

LENGTH = 4
"""Tokens of a text that is only looked at for how the blocks are called."""
WHOLE = 2**20
"""Numbers of a parameter that a plan still makes in full."""


TUPLES = (0, 1, 2, 3)
"""How many outputs blocks are tried with, see `replaced`."""
_OTHER = object()
"""Stands for what a block returns beside its hidden states."""


class Traceable(Protocol):
    """A model, its decoder blocks, each with `index`, `prefix` and `module`, and the paths of modules that no text
    passes."""

    @property
    def model(self) -> Any: ...

    @property
    def blocks(self) -> Sequence[Any]: ...

    @property
    def towers(self) -> Sequence[str]: ...


class _HeadReached(Exception):
    """Raised inside the model where the output head begins: what follows is not wanted."""


@dataclass(frozen=True)
class Call:
    """What the model gives one block beside the hidden states. shape: of those, (windows, length, width)."""

    positional: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int, ...]

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
    graph: Traceable, replacement: Callable[[int, Tensor], Tensor], *, outputs: int
) -> Iterator[list[Call]]:
    """Blocks call `replacement(index, hidden)` instead of themselves; yields their calls in order.

    outputs: how many the model expects in the tuples that its blocks return, 0 for no tuple but the hidden states.
    """
    calls: list[Call] = []

    def forward(index: int, *args: Any, **kwargs: Any) -> Any:
        positional = bool(args)
        hidden = args[0] if positional else kwargs.pop("hidden_states")
        calls.append(Call(positional, tuple(args[1:]), kwargs, tuple(hidden.shape)))
        result = replacement(index, hidden)
        return (result, *[_OTHER] * (outputs - 1)) if outputs else result

    try:
        for block in graph.blocks:
            block.module.forward = lambda *a, _i=block.index, **k: forward(_i, *a, **k)
        yield calls
    finally:
        for block in graph.blocks:
            del block.module.forward


def trace(graph: Traceable, ids: Tensor, *, outputs: int) -> list[Call]:
    """What each block is called with for `ids`, (windows, length). The output head is not run.

    Raises UserError `unsupported_model` when the blocks are not called one after another, each of them once.
    """
    due, given = 0, None

    def hand_on(index: int, hidden: Tensor) -> Tensor:
        nonlocal due, given
        # Each block must get exactly what the block before it gave, or it cannot be run on its own.
        if index != due or (given is not None and hidden is not given):
            raise unsupported("its decoder blocks are not called one after another")
        if any(each is _OTHER for each in (*calls[-1].args, *calls[-1].kwargs.values())):
            raise unsupported("its decoder blocks hand more than the hidden states on to each other")
        due, given = due + 1, hidden.clone()
        return given

    def stop(_module: nn.Module, _args: tuple[Any, ...]) -> None:
        raise _HeadReached

    handle = graph.model.get_output_embeddings().register_forward_pre_hook(stop)
    try:
        with replaced(graph, hand_on, outputs=outputs) as calls:
            run_model(graph.model, ids)
    except _HeadReached:
        pass
    finally:
        handle.remove()
    if len(calls) != len(graph.blocks):
        raise unsupported("it does not call every decoder block once")
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


def check_calls(graph: Traceable, device: torch.device, *, outputs: int) -> None:
    """Refuse a model whose blocks cannot be run one at a time. Its outer weights are on `device`.

    Raises UserError `unsupported_model` as `trace` does, and when a block gets something beside the hidden states
    that depends on the text's tokens: the calls of the first text would then be replayed for all others.
    """
    _refuse_dependence(graph, *_trace_two(graph, device, outputs=outputs))


def check_blocks(graph: Traceable) -> list[Call]:
    """Refuse from the graph alone, before anything is read, what `check_calls` will refuse.

    Random numbers stand for the weights outside the blocks. Returns what each block is called with for a text of
    LENGTH tokens. Raises UserError `unsupported_model`, also when the model does not run so.
    """
    with torch.no_grad(), stand_ins(outside(graph)):
        # Which of the two the model expects, only a block that runs can tell.
        found = [attempt(graph, outputs=outputs) for outputs in TUPLES]
    for each in found:
        if isinstance(each, tuple):
            _refuse_dependence(graph, *each)
            return each[0]
    raise next((each for each in found if isinstance(each, UserError)), unsupported_run(graph.model, found[-1]))


def unsupported_run(what: Any, error: Any) -> UserError:
    """For a model, or a part of one, whose own code raises `error` when it is run in pieces."""
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return unsupported(f"{type(what).__name__} does not run block by block: {said}")


def _trace_two(graph: Traceable, device: torch.device, *, outputs: int) -> tuple[list[Call], list[Call]]:
    """The calls for two texts of one shape that share no token."""
    tokens = plain_tokens(graph.model)
    one, other = (torch.tensor([text], device=device) for text in (tokens[:LENGTH], tokens[-LENGTH:]))
    return trace(graph, one, outputs=outputs), trace(graph, other, outputs=outputs)


def attempt(graph: Traceable, *, outputs: int) -> tuple[list[Call], list[Call]] | Exception:
    """`_trace_two`, or what it raised: a UserError, or anything where the model does not run."""
    try:
        return _trace_two(graph, torch.device("cpu"), outputs=outputs)
    except Exception as error:
        if trouble_of(error) is not None:
            raise
        return error


def _refuse_dependence(graph: Traceable, one: list[Call], other: list[Call]) -> None:
    for block, *calls in zip(graph.blocks, one, other, strict=True):
        first_call, second_call = (call.named(block.module) for call in calls)
        if (name := difference("", first_call, second_call)) is not None:
            raise unsupported(
                f"{block.prefix} is called with {name}, which depends on the tokens of the text; blocks can be "
                "run one at a time only if nothing but the hidden states does"
            )


def outside(graph: Traceable) -> list[nn.Module]:
    """Every module that a text passes outside the blocks."""
    apart = [block.module for block in graph.blocks] + [graph.model.get_submodule(path) for path in graph.towers]
    inside = {id(part) for module in apart for part in module.modules()}
    return [part for part in graph.model.modules() if id(part) not in inside]


@contextmanager
def stand_ins(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Random numbers in the place of the modules' own parameters, which are on the meta device."""
    before = [(part, *named) for part in parts for named in part.named_parameters(recurse=False)]
    generator = torch.Generator().manual_seed(0)  # not the global one: a job draws nothing from it
    try:
        for part, name, parameter in before:
            setattr(part, name, nn.Parameter(stand_in(parameter, generator), requires_grad=False))
        yield
    finally:
        for part, name, parameter in before:
            setattr(part, name, parameter)


def stand_in(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers in the parameter's shape, so small that a product with a matrix keeps its input's size.

    A large one is a Hankel matrix, entry (i, j) being number i + j: all its rows differ, as tokens' embeddings
    must, and it takes the memory of one column and one row.
    """
    shape = parameter.shape
    scale = shape[-1] ** -0.5 if len(shape) > 1 else 1.0
    if parameter.numel() <= WHOLE:
        return scale * torch.randn(shape, generator=generator)
    return (scale * torch.randn(sum(shape), generator=generator)).as_strided(shape, (1,) * len(shape))


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


def unsupported(message: str) -> UserError:
    return UserError("unsupported_model", message, "/model")
