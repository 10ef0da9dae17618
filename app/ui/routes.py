"""/ui: the dashboard's page, whatever address below /ui was asked for, and its files.

Routes of Starlette's own: the page's addresses have parameters that are the page's business.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from app.kit.conditions import none_match
from app.kit.problems import NotFound
from app.ui.files import PAGE, File, files

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load and run: nothing inline, nothing of anybody else's."""
_PERMISSIONS: Final = "camera=(), microphone=(), geolocation=(), payment=(), usb=()"
_FOR_EVER: Final = "public, max-age=31536000, immutable"
"""Of files whose name has their digest."""
_ASK_AGAIN: Final = "no-cache"
_NOT_BUILT: Final = (
    "The dashboard has not been built here. In a clone of the repository, `make ui` builds it (once, over "
    "the network); then restart the API. The API itself works without it: see /docs.\n"
)


def read_page(request: Request) -> Response:
    """A file of the build; the page for every other address that names no file. Raises NotFound."""
    path = request.path_params.get("path", "")
    if not (known := files()):
        return PlainTextResponse(_NOT_BUILT, 404, {"Cache-Control": "no-store"})
    if (file := known.get(path)) is not None and path != PAGE:
        return _answer(request, file, _FOR_EVER if path.startswith("assets/") else _ASK_AGAIN)
    if path != PAGE and (path.startswith("assets/") or "." in path.rpartition("/")[2]):
        raise NotFound
    return _answer(request, known[PAGE], _ASK_AGAIN)


def redirect(_: Request) -> Response:
    """To the dashboard, for whoever typed the service's name alone."""
    return RedirectResponse("/ui/", 307)


def _answer(request: Request, file: File, cache: str) -> Response:
    packed = file.packed if "gzip" in request.headers.get("accept-encoding", "") else None
    etag = f'"{file.digest}{"-gzip" if packed else ""}"'
    headers = {"ETag": etag, "Cache-Control": cache, "Vary": "Accept-Encoding"}
    if file.type == "text/html":
        headers |= {"Content-Security-Policy": POLICY, "Permissions-Policy": _PERMISSIONS}
    if not none_match(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    if packed:
        headers["Content-Encoding"] = "gzip"
    return Response(packed or file.content, 200, headers, file.type)


class _Counted(Route):
    """Says in the scope that it is the route, as FastAPI's own do: calls are counted by it (kit/calls.py)."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return match, {**child, "route": self} if child else child


ROUTES: Final = (
    _Counted("/", redirect, include_in_schema=False),
    _Counted("/ui", redirect, include_in_schema=False),
    _Counted("/ui/{path:path}", read_page, include_in_schema=False),
)
