"""Query parameters that a call does not know: refused, because a mistyped filter would answer another question."""

from typing import Any, Final

from fastapi import Request

from app.kit.problems import FieldError, Invalid

MOST: Final = 20
"""Parameters that are named in one answer."""


async def refuse_unknown_parameters(request: Request) -> None:
    """For every call that the OpenAPI document has. Raises Invalid."""
    if not request.query_params:
        return
    route: Any = request.scope.get("route")
    paths = request.app.openapi()["paths"]  # made once
    operation = paths.get(getattr(route, "path_format", None), {}).get(request.method.lower())
    if operation is None:
        return
    known = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
    text = f"is not a parameter of this call; it takes {', '.join(known) or 'none'}"
    unknown = sorted(set(request.query_params) - set(known))[:MOST]
    errors = [FieldError(text, parameter=name) for name in unknown]
    if errors:
        raise Invalid(errors=errors)
