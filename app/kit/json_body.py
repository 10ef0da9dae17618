"""Strict reading of JSON bodies: what Postgres cannot store or arithmetic cannot bear never gets in."""

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, Never

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from app.kit.problems import FieldError, Invalid, Malformed, UnsupportedMediaType

MAX_DEPTH: Final = 32
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def parse_json(data: bytes) -> Any:
    """The document's value.

    Raises Malformed (not JSON, NaN, a key twice) or Invalid (too deep, NUL, lone surrogate, infinite number).
    """
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant, object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise Malformed("The body is not UTF-8.") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise Malformed(f"The body is not JSON: {error}.") from None
    _check(value)
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
    """A route that refuses bodies which are not (strict) JSON before anything else looks at them."""

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()
        takes_body = self.body_field is not None

        async def strict(request: Request) -> Response:
            if takes_body and not is_json(request.headers.get("content-type")):
                raise UnsupportedMediaType("Send the body as application/json.")
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


def _no_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _too_deep() -> Invalid:
    return Invalid(f"The body is nested more than {MAX_DEPTH} levels deep.")


def _check(value: Any) -> None:
    """Walk the document without recursion."""
    pending: list[tuple[Any, str, int]] = [(value, "", 1)]
    while pending:
        here, pointer, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise _too_deep()
        if isinstance(here, dict):
            for key, inner in here.items():
                _check_text(key, pointer)
                pending.append((inner, f"{pointer}/{key}", depth + 1))
        elif isinstance(here, list):
            pending += [(inner, f"{pointer}/{index}", depth + 1) for index, inner in enumerate(here)]
        elif isinstance(here, str):
            _check_text(here, pointer)
        elif isinstance(here, float) and not math.isfinite(here):
            raise _refuse(pointer, "is too large a number")


def _check_text(text: str, pointer: str) -> None:
    if "\0" in text:
        raise _refuse(pointer, "contains a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refuse(pointer, "contains half of a surrogate pair") from None


def _refuse(pointer: str, detail: str) -> Invalid:
    # The pointer may itself hold what cannot be sent.
    safe = pointer.encode(errors="replace").decode().replace("\0", "?")
    return Invalid(f"{safe or 'body'}: {detail}", errors=[FieldError(detail, pointer=safe)])
