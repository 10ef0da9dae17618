"""Errors as RFC 9457 problem documents: one class an error, with its status, stable code and OpenAPI entry."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from app.kit.headers import sent_by

MEDIA_TYPE: Final = "application/problem+json"
T = TypeVar("T")
SCHEMA_REF: Final = {"$ref": "#/components/schemas/Problem"}


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one part of a request."""

    detail: str
    pointer: str | None = None
    """JSON pointer into the body."""
    parameter: str | None = None
    """Name of a query, path or header parameter, when it is not the body."""


class Problem(HTTPException):
    """Base of every error that a caller sees; subclasses are the whole catalogue."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, str | int] | None = None,
    ) -> None:
        """detail: by default the first errors. extensions: further members of the document (RFC 9457, 3.2)."""
        said = "; ".join(f"{each.pointer or each.parameter or 'body'}: {each.detail}" for each in errors[:3])
        super().__init__(self.status, detail or said or self.title, dict(headers or {}))
        self.errors = tuple(errors)
        self.extensions = dict(extensions or {})


class Malformed(Problem):
    status, code, title = 400, "malformed_request", "The request cannot be read"


class Unauthorized(Problem):
    """No key, or one that does not work; which of these is deliberately not said."""

    status, code, title = 401, "unauthorized", "A valid API key is needed: Authorization: Bearer sctr_…"

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": 'Bearer realm="secateur"'})


class Forbidden(Problem):
    status, code, title = 403, "insufficient_scope", "The API key has not got the scope for this"

    def __init__(self, *scopes: str) -> None:
        """scopes: one of them is enough."""
        wanted = scopes or ("jobs:read",)
        challenge = f'Bearer realm="secateur", error="insufficient_scope", scope="{" ".join(wanted)}"'
        super().__init__(
            f"This call needs the scope {' or '.join(wanted)}.", headers={"WWW-Authenticate": challenge}
        )


class NotFound(Problem):
    status, code, title = 404, "not_found", "There is nothing here"


def exists(value: T | None, problem: type[NotFound]) -> T:
    """The value. Raises the problem when there is none."""
    if value is None:
        raise problem
    return value


class MethodNotAllowed(Problem):
    status, code, title = 405, "method_not_allowed", "This address does not take that method"


class TooSlow(Problem):
    status, code, title = 408, "request_timeout", "The request takes too long to arrive"


class HeadTooLarge(Problem):
    status, code, title = 431, "head_too_large", "The address or the headers of the request are too long"


class PreconditionFailed(Problem):
    status, code, title = 412, "precondition_failed", "It is not what the caller's If-Match says"


class TooLarge(Problem):
    status, code, title = 413, "too_large", "The request's body is too large"

    def __init__(self, limit: int = 2**20) -> None:
        super().__init__(f"The body may have at most {limit} bytes.")


class UnsupportedMediaType(Problem):
    status, code, title = 415, "unsupported_media_type", "The request's body has a type that is not taken here"


class Invalid(Problem):
    status, code, title = 422, "invalid_request", "The request is well-formed but cannot be accepted"


class RateLimited(Problem):
    status, code, title = 429, "rate_limited", "Too many calls within a minute"

    def __init__(self, quota: int = 300, retry_after: int = 1) -> None:
        """quota: calls a minute. retry_after: seconds until there is another one."""
        detail = f"At most {quota} such calls a minute; the next one in {retry_after} s."
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class Unavailable(Problem):
    """A part that the service needs does not answer; the caller should try again."""

    status, code, title = 503, "unavailable", "The service cannot do this at the moment"

    def __init__(self, detail: str | None = None, retry_after: int = 5) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class ProblemField(BaseModel):
    """One entry of a problem's `errors`."""

    pointer: str | None = Field(
        default=None, description="JSON pointer into the request's body.", examples=["/sparsity/target"]
    )
    parameter: str | None = Field(default=None, description="Name of a parameter outside the body.")
    detail: str


class ProblemRead(BaseModel):
    """An error (RFC 9457). `code` is stable; `detail` is for people."""

    model_config = ConfigDict(title="Problem")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[ProblemField] = []
    state: str | None = Field(default=None, description="Of the job that cannot do what was asked, with a 409.")
    quota: str | None = Field(default=None, description="Name of the quota that is used up, with a 429 or 507.")
    limit: int | None = Field(default=None, description="What the quota is.")
    used: int | None = Field(default=None, description="What the project has of it.")


def document(problem: Problem, request_id: str) -> dict[str, Any]:
    """The body that is sent."""
    return {
        **problem.extensions,
        "type": f"urn:secateur:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
        "errors": [asdict(error) for error in problem.errors],
    }


OPEN: Final = (Malformed, TooSlow, TooLarge, Invalid, RateLimited, Problem, Unavailable)
"""What any call can answer."""
KEYED: Final = (Unauthorized, Forbidden)


def problems(*classes: type[Problem], keyed: bool = True) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a call: these errors and the ones common to all calls (with a key)."""
    found: dict[int | str, dict[str, Any]] = {}
    every = sorted({*OPEN, *(KEYED if keyed else ()), *classes}, key=lambda each: (each.status, each.code))
    for each in every:
        entry = found.setdefault(
            each.status,
            {"description": each.title, "content": {MEDIA_TYPE: {"schema": SCHEMA_REF, "examples": {}}}},
        )
        problem = each()
        example = document(problem, "01jd3f7e2c")
        if problem.headers:
            entry.setdefault("headers", {}).update(sent_by(problem.headers))
        entry["content"][MEDIA_TYPE]["examples"][each.code] = {"summary": each.title, "value": example}
    for entry in found.values():
        examples = entry["content"][MEDIA_TYPE]["examples"]
        entry["description"] = " · ".join(f"{example['summary']} (`{code}`)" for code, example in examples.items())
    return found
