"""Strict reading of JSON bodies: what Postgres cannot store or arithmetic cannot bear never gets in."""

import math
from collections.abc import Callable, Coroutine
from typing import Any, Final

from anyio import CapacityLimiter, to_thread
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from app.kit.answers import has_hooks, run_hooks
from app.kit.problems import FieldError, Invalid, Malformed, UnsupportedMediaType
from secateur import strict_json

MAX_DEPTH: Final = 32
_KEY_SHOWN: Final = 200
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def parse_json(data: bytes) -> Any:
    """The document's value.

    Raises Malformed (not JSON, NaN, a key twice) or Invalid (too deep, NUL, lone surrogate, infinite number).
    """
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


class StrictRequest(Request):
    """A request whose `json()` is `parse_json`."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route that refuses bodies which are not (strict) JSON before anything else looks at them, and lets what
    waits for the answer see it before the commit."""

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()
        takes_body = self.body_field is not None

        async def strict(request: Request) -> Response:
            if takes_body and not is_json(request.headers.get("content-type")):
                raise UnsupportedMediaType("Send the body as application/json.")
            response = await handle(StrictRequest(request.scope, request.receive))
            if has_hooks(request):
                # A token of its own: what holds a connection never waits for threads that wait for connections.
                await to_thread.run_sync(run_hooks, request, response, limiter=CapacityLimiter(1))
            return response

        return strict


def _too_deep() -> Invalid:
    return Invalid(f"The body is nested more than {MAX_DEPTH} levels deep.")


def _check(value: Any, path: list[str | int]) -> None:
    """path: the way to `value`. Only a refusal puts it into words: keys may be long, with much below them."""
    if len(path) >= MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_text(key, path)
            path.append(key)
            _check(inner, path)
            path.pop()
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            path.append(index)
            _check(inner, path)
            path.pop()
    elif isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise _refuse(path, "is too large a number")


def _check_text(text: str, path: list[str | int]) -> None:
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
