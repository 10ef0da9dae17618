"""Every exception becomes a problem document; nothing of our inside (SQL, paths, traces) is in it."""

from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from sqlalchemy.exc import DBAPIError, IntegrityError, TimeoutError
from sqlalchemy.exc import OperationalError as DatabaseDown
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from app.kit.answers import Answered
from app.kit.problems import (
    MEDIA_TYPE,
    FieldError,
    Invalid,
    Malformed,
    MethodNotAllowed,
    NotFound,
    Problem,
    TooLarge,
    TooSlow,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    document,
)
from app.storage import StoreError
from secateur.spec.strict import explain

log = structlog.get_logger("app.errors")

_BY_STATUS: Final[dict[int, type[Problem]]] = {
    400: Malformed,
    404: NotFound,
    405: MethodNotAllowed,
    408: TooSlow,
    415: UnsupportedMediaType,
    422: Invalid,
}
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_MAX_ERRORS: Final = 50


def install_handlers(app: FastAPI) -> None:
    """Register the handlers; what they do not know is answered by the outermost middleware."""
    app.add_exception_handler(Answered, _on_answered)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(DBAPIError, _on_database)
    app.add_exception_handler(TimeoutError, _on_database)
    app.add_exception_handler(StoreError, _on_store)


def request_id(request: Request) -> str:
    """The id that the middleware gave the request."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def problem_response(problem: Problem, id: str) -> Response:
    """A problem as it is sent."""
    return JSONResponse(document(problem, id), problem.status, dict(problem.headers or {}), MEDIA_TYPE)


def validation_problem(error: ValidationError, body: Any) -> Invalid:
    """The problem for a body that a pydantic model refused."""
    return _invalid([{**each, "loc": ("body", *each["loc"])} for each in error.errors()], body)


async def _on_answered(_: Request, error: Exception) -> Response:
    assert isinstance(error, Answered)  # noqa: S101 - for the type checker
    return error.response


async def _on_http(request: Request, error: Exception) -> Response:
    """Ours as they are; the framework's (unknown address, wrong method) in our form."""
    if isinstance(error, Problem):
        return problem_response(error, request_id(request))
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    if error.status_code == 413:
        return problem_response(TooLarge(), request_id(request))
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
    problem = _BY_STATUS.get(error.status_code, Problem)(headers=headers)
    return problem_response(problem, request_id(request))


def _allowed(request: Request) -> str:
    """Every method of the address; the framework names those of the first route only."""
    found: list[str] = []
    for method in _METHODS:
        if method == "HEAD" and "GET" in found:
            found.append(method)
            continue
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            found.append(method)
    return ", ".join(found)


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
    return problem_response(_invalid(list(error.errors()), error.body), request_id(request))


async def _on_database(request: Request, error: Exception) -> Response:
    """A database that is away, full or overtaxed is worth trying again; anything else is our mistake."""
    if _project_is_gone(error):
        return problem_response(Unauthorized(), request_id(request))
    away = isinstance(error, DatabaseDown | TimeoutError) or getattr(error, "connection_invalidated", False)
    log.error("database_error", exc_info=error, away=away)
    problem = Unavailable("The database cannot do this at the moment.") if away else Problem()
    return problem_response(problem, request_id(request))


def _project_is_gone(error: Exception) -> bool:
    """Whether the caller's project was deleted while the call was under way, and the key with it."""
    cause = getattr(error, "orig", None)
    constraint = getattr(getattr(cause, "diag", None), "constraint_name", None) or ""
    return (
        isinstance(error, IntegrityError) and constraint.startswith("fk_") and constraint.endswith("_project_id")
    )


async def _on_store(request: Request, error: Exception) -> Response:
    log.error("store_error", exc_info=error)
    return problem_response(Unavailable("The object store does not answer."), request_id(request))


def _invalid(errors: list[ErrorDetails] | list[dict[str, Any]], body: Any) -> Invalid:
    return Invalid(errors=[_field_error(each, body) for each in errors[:_MAX_ERRORS]])


def _field_error(error: Any, body: Any) -> FieldError:
    place, *rest = error["loc"]
    pointer, message = explain({**error, "loc": rest}, body)
    if place == "body":
        return FieldError(message, pointer=pointer)
    return FieldError(message, parameter=str(rest[0]) if rest else str(place))
