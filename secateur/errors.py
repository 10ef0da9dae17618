"""What can go wrong, as classes."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx


class SecateurError(Exception):
    """Base of every error of this package; its text is for people."""


class NotReachable(SecateurError):
    """The server did not answer, after all retries."""


class BadAnswer(SecateurError):
    """What answered is not Secateur, or its answer was spoilt on the way."""


class WaitTimeout(SecateurError):
    """What was waited for did not happen in time."""


class DownloadError(SecateurError):
    """A file could not be downloaded whole and correct."""


class UnsafePath(DownloadError):
    """A manifest names a path outside the folder it is downloaded to."""


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one part of a request."""

    detail: str
    pointer: str | None
    """JSON pointer into the body, such as `/sparsity/target`."""
    parameter: str | None


class ProblemError(SecateurError):
    """The server refused (RFC 9457 `application/problem+json`)."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        request_id: str | None = None,
        fields: tuple[FieldProblem, ...] = (),
    ) -> None:
        self.status = status
        self.code = code
        """Stable; decide by it, not by the text."""
        self.detail = detail
        self.request_id = request_id
        self.fields = fields
        super().__init__(self._text())

    @property
    def pointers(self) -> list[str]:
        """The parts of the request body that were refused."""
        return [field.pointer for field in self.fields if field.pointer is not None]

    @classmethod
    def of(cls, response: httpx.Response) -> "ProblemError":
        """From a response with an error status, whose body has been read; also from a proxy's HTML page."""
        body = _problem(response)
        errors = body.get("errors")
        fields = tuple(
            FieldProblem(str(entry.get("detail", "")), entry.get("pointer"), entry.get("parameter"))
            for entry in (errors if isinstance(errors, list) else [])
            if isinstance(entry, dict)
        )
        return cls(
            response.status_code,
            str(body.get("code") or f"http_{response.status_code}"),
            str(body.get("detail") or body.get("title") or _phrase(response.status_code)),
            body.get("request_id") or response.headers.get("x-request-id"),
            fields,
        )

    def _text(self) -> str:
        lines = [f"{self.detail} ({self.status} {self.code})"]
        for field in self.fields:
            place = field.pointer or field.parameter
            lines.append(f"  {place}: {field.detail}" if place else f"  {field.detail}")
        if self.request_id and self.status >= 500:
            lines.append(f"  request id {self.request_id}")
        return "\n".join(lines)


def problem_code(response: httpx.Response) -> str | None:
    """The stable code of a refusal; None of what is not a problem document."""
    code = _problem(response).get("code")
    return code if isinstance(code, str) else None


def json_object(response: httpx.Response) -> dict[str, Any] | None:
    """The object of a body that has been read; None of any other body."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _problem(response: httpx.Response) -> dict[str, Any]:
    said = "json" in response.headers.get("content-type", "")
    return (json_object(response) if said else None) or {}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "the server refused"
