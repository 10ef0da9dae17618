"""Strict reading of JSON bodies: what Postgres cannot store or arithmetic cannot bear never gets in, and nothing
that takes long is done on the event loop."""

import math
import re
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import Any, Final

from anyio import CapacityLimiter, to_thread
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import solve_dependencies
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from app.kit.answers import has_hooks, run_hooks
from app.kit.problems import FieldError, Invalid, Malformed, UnsupportedMediaType
from secateur import strict_json

MAX_DEPTH: Final = 32
MAX_NODES: Final = 20_000
"""Values of a document; the largest job has a few thousand."""
MAX_MEMBERS: Final = 200
"""Of one object: each unknown one becomes an error."""
MAX_KEY: Final = 300
MAX_STRING: Final = 20_000
"""Characters."""
AT_ONCE: Final = 4096
"""Bytes; more are read and validated in a thread."""
_KEY_SHOWN: Final = 200
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""Also one that does not end, so that no place is looked at twice."""
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def parse_json(data: bytes) -> Any:
    """The document's value.

    Raises Malformed (not JSON, NaN, a key twice) or Invalid (too deep, too much, NUL, lone surrogate, infinite
    number).
    """
    if _nodes(data) > MAX_NODES:
        raise Invalid(f"The body has more than {MAX_NODES} values.")
    try:
        value = strict_json.loads(data)
    except UnicodeDecodeError:
        raise Malformed("The body is not UTF-8.") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise Malformed(f"The body is not JSON: {error}.") from None
    _check(value, [])
    return value


def is_json(content_type: str | None) -> bool:
    """Whether a Content-Type header announces JSON."""
    name = (content_type or "").split(";")[0].strip().lower()
    return name == "application/json" or (name.startswith("application/") and name.endswith("+json"))


def refuse_compressed(request: Request) -> None:
    """Bodies are taken as they are: nothing bounds what a few bytes unpack to. Raises UnsupportedMediaType."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")


class StrictRequest(Request):
    """A request whose `json()` is `parse_json`, of a large body in a thread."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            self._json = parse_json(body) if len(body) <= AT_ONCE else await _apart(parse_json, body)
        return self._json


class StrictRoute(APIRoute):
    """A route that asks who is there before it reads a byte of the body, refuses a body that is not (strict) JSON
    before anything else looks at it, and lets what waits for the answer see it before the commit.

    The endpoint's own dependencies whose class has `before_body` say whether the caller may go on.
    """

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()
        field = self.body_field
        guards = [each for each in self.dependant.dependencies if getattr(each.call, "before_body", False)]

        async def strict(request: Request) -> Response:
            whole = StrictRequest(request.scope, request.receive)
            if field is not None:
                await _ask(guards, request)
                await _read(whole, field)
            response = await handle(whole)
            if has_hooks(request):
                # A token of its own: what holds a connection never waits for threads that wait for connections.
                await to_thread.run_sync(run_hooks, request, response, limiter=CapacityLimiter(1))
            return response

        return strict


async def _ask(guards: list[Dependant], request: Request) -> None:
    """Raises what a guard raises, and RequestValidationError."""
    stack = request.scope["fastapi_inner_astack"]
    assert isinstance(stack, AsyncExitStack)  # noqa: S101 - for the type checker
    asked = Dependant(dependencies=guards)
    solved = await solve_dependencies(
        request=request, dependant=asked, async_exit_stack=stack, embed_body_fields=False
    )
    if solved.errors:
        raise RequestValidationError(solved.errors)


async def _read(request: StrictRequest, field: Any) -> None:
    """The body, and what is wrong with a large one. Raises UnsupportedMediaType, Malformed, Invalid,
    RequestValidationError."""
    if not is_json(request.headers.get("content-type")):
        raise UnsupportedMediaType("Send the body as application/json.")
    refuse_compressed(request)
    if len(await request.body()) > AT_ONCE:
        await _apart(_validate, field, await request.json())


def _validate(field: Any, value: Any) -> None:
    """Raises RequestValidationError. What is valid is small, and is validated again by the framework."""
    _, errors = field.validate(value, {}, loc=("body",))
    if errors:
        raise RequestValidationError(errors, body=value)


async def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    return await to_thread.run_sync(work, *arguments, limiter=_limiter())


@lru_cache
def _limiter() -> CapacityLimiter:
    """Threads of their own: who sends large bodies takes none from other calls."""
    return CapacityLimiter(2)


def _nodes(data: bytes) -> int:
    """Not less than the document's values; what is within strings counts only where there is much of it."""
    signs = (b",", b"{", b"[")
    found = sum(map(data.count, signs))
    return found if found <= MAX_NODES else sum(map(_STRING.sub(b"", data).count, signs))


def _too_deep() -> Invalid:
    return Invalid(f"The body is nested more than {MAX_DEPTH} levels deep.")


def _check(value: Any, path: list[str | int]) -> None:
    """path: the way to `value`. Only a refusal puts it into words: keys may be long, with much below them."""
    if len(path) >= MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, dict):
        if len(value) > MAX_MEMBERS:
            raise _refuse(path, f"has more than {MAX_MEMBERS} members")
        for key, inner in value.items():
            _check_text(key, path, MAX_KEY)
            path.append(key)
            _check(inner, path)
            path.pop()
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            path.append(index)
            _check(inner, path)
            path.pop()
    elif isinstance(value, str):
        _check_text(value, path, MAX_STRING)
    elif isinstance(value, float) and not math.isfinite(value):
        raise _refuse(path, "is too large a number")


def _check_text(text: str, path: list[str | int], longest: int) -> None:
    if len(text) > longest:
        kind = "key" if longest == MAX_KEY else "text"
        raise _refuse(path, f"has a {kind} of more than {longest} characters")
    if "\0" in text:
        raise _refuse(path, "contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refuse(path, "contains half of a surrogate pair") from None


def _refuse(path: list[str | int], detail: str) -> Invalid:
    pointer = "".join(f"/{_part(str(part))}" for part in path)
    return Invalid(errors=[FieldError(detail, pointer=pointer)])


def _part(key: str) -> str:
    """One step of a JSON pointer, as far as it can be sent and read."""
    shown = key if len(key) <= _KEY_SHOWN else f"{key[:_KEY_SHOWN]}…"
    return shown.encode(errors="replace").decode().replace("\0", "?").replace("~", "~0").replace("/", "~1")
