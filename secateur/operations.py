"""Calls written once, as coroutines, for a client that blocks and for one that is awaited.

A coroutine over a wire that never suspends ends at its first step, so that the client that blocks needs no event
loop: it runs in a notebook, in a thread, in a program that has a loop of its own.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import wraps
from types import MethodType
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from secateur.wire import AsyncWire, BlockingWire, Wire

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
Rows = AsyncGenerator[T, None]
"""What a list brings, one by one."""


class Blocking:
    """Whose operations block, and whose lists are iterators."""

    wire: ClassVar[type[Wire]] = BlockingWire


class Awaiting:
    """Whose operations are awaited, and whose lists are asynchronous iterators."""

    wire: ClassVar[type[Wire]] = AsyncWire


class operation(Generic[S, P, T]):
    """A method of both clients, written as a coroutine."""

    def __init__(self, function: Callable[Concatenate[S, P], Coroutine[Any, Any, T]]) -> None:
        self.function = function

    @overload
    def __get__(self, instance: Blocking, owner: Any) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: Awaiting, owner: Any) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, instance: None, owner: type[Blocking]) -> Callable[Concatenate[Any, P], T]: ...
    @overload
    def __get__(
        self, instance: None, owner: type[Awaiting]
    ) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        return _method(self.function, run, instance, owner)


class listing(Generic[S, P, T]):
    """A method of both clients, written as one that returns an asynchronous generator."""

    def __init__(self, function: Callable[Concatenate[S, P], Rows[T]]) -> None:
        self.function = function

    @overload
    def __get__(self, instance: Blocking, owner: Any) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, instance: Awaiting, owner: Any) -> Callable[P, Rows[T]]: ...
    @overload
    def __get__(
        self, instance: None, owner: type[Blocking]
    ) -> Callable[Concatenate[Any, P], Generator[T, None, None]]: ...
    @overload
    def __get__(self, instance: None, owner: type[Awaiting]) -> Callable[Concatenate[Any, P], Rows[T]]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        return _method(self.function, iterate, instance, owner)


def _method(function: Callable[..., Any], drive: Callable[[Any], Any], instance: Any, owner: type) -> Any:
    """The function as a method of an instance, or of the class when there is none."""
    if not issubclass(owner, Blocking):
        return function if instance is None else MethodType(function, instance)

    @wraps(function)
    def method(self: Any, /, *arguments: Any, **named: Any) -> Any:
        return drive(function(self, *arguments, **named))

    return method if instance is None else MethodType(method, instance)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine over a wire that blocks returns."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    coroutine.close()
    raise RuntimeError("a call that blocks has waited for an event loop")


def iterate(rows: Rows[T]) -> Generator[T, None, None]:
    """The rows of a generator over a wire that blocks; it is closed as soon as they are not wanted any more."""
    try:
        while True:
            try:
                row = run(rows.__anext__())
            except StopAsyncIteration:
                return
            yield row
    finally:
        run(rows.aclose())
