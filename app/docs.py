"""/docs: the API to read and to try, from files of our own (Swagger UI, from the package fastapi-offline)."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response

from app.kit.conditions import none_match
from app.kit.problems import NotFound

router = APIRouter(prefix="/docs", include_in_schema=False)

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load and run: nothing inline, nothing of anybody else's."""
CACHE: Final = "public, max-age=86400"
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Secateur API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = """SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href,
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null,
});
"""


@dataclass(frozen=True)
class File:
    """What is served under one name."""

    content: bytes
    type: str

    @cached_property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


@lru_cache
def files() -> dict[str, File]:
    """By name; read once. Of the package only its files are used: it is never imported."""
    package = find_spec("fastapi_offline")
    assert package is not None  # noqa: S101 - the extra `server` has it
    static = Path((package.submodule_search_locations or [""])[0]) / "static"
    return {
        "swagger-ui-bundle.js": File((static / "swagger-ui-bundle.js").read_bytes(), "text/javascript"),
        "swagger-ui.css": File((static / "swagger-ui.css").read_bytes(), "text/css"),
        "start.js": File(_START.encode(), "text/javascript"),
    }


@router.api_route("", methods=["GET", "HEAD"])
async def read_docs() -> Response:
    """The page."""
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": CACHE}
    return Response(_PAGE, media_type="text/html", headers=headers)


@router.api_route("/{name}", methods=["GET", "HEAD"])
def read_file(name: str, request: Request) -> Response:
    """One of the page's files. Raises NotFound."""
    file = files().get(name)
    if file is None:
        raise NotFound
    headers = {"ETag": file.etag, "Cache-Control": CACHE}
    if not none_match(request.headers.get("if-none-match"), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.type, headers=headers)
