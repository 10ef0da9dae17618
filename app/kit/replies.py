"""Answers are made inside the endpoint, so that nothing waits for a thread while it holds a connection."""

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.responses import Response


def reply(body: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(body.model_dump_json(), status, headers, "application/json")
