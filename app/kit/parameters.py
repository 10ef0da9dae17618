"""Query parameters that a call does not know: refused, because a mistyped filter would answer another question."""

from typing import Any

from fastapi import Request

from app.kit.problems import FieldError, Invalid


async def refuse_unknown_parameters(request: Request) -> None:
    """For every call that the OpenAPI document has. Raises Invalid."""
    route: Any = request.scope.get("route")
    paths = request.app.openapi()["paths"]
    operation = paths.get(getattr(route, "path_format", None), {}).get(request.method.lower())
    if operation is None or not request.query_params:
        return
    known = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
    text = f"is not a parameter of this call; it takes {', '.join(known) or 'none'}"
    errors = [FieldError(text, parameter=name) for name in sorted(set(request.query_params) - set(known))]
    if errors:
        raise Invalid("; ".join(f"{error.parameter}: {error.detail}" for error in errors[:3]), errors=errors)
