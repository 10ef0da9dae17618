"""Query parameters that a call does not know: refused, because a mistyped filter would answer another question."""

from collections import Counter
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
    pairs = request.query_params.multi_items()
    given = {name for name, _ in pairs}
    known = {each["name"]: each for each in operation.get("parameters", ()) if each["in"] == "query"}
    if given <= known.keys() and len(given) == len(pairs):
        return
    text = f"is not a parameter of this call; it takes {', '.join(known) or 'none'}"
    errors = [FieldError(text, parameter=name) for name in sorted(given - known.keys())[:MOST]]
    once = {name for name, each in known.items() if not _may_repeat(each["schema"])}
    times = Counter(name for name, _ in pairs if name in once)
    errors += [FieldError("is given more than once", parameter=name) for name, count in times.items() if count > 1]
    if errors:
        raise Invalid(errors=errors)


def _may_repeat(schema: Any) -> bool:
    return any(each.get("type") == "array" for each in (schema, *schema.get("anyOf", ())))
