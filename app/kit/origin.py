"""Where work came from: the call, and its trace, written beside what the call has made."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from opentelemetry.trace import Span, SpanKind

from app.kit.tracing import span, traceparent


def current_origin() -> dict[str, Any] | None:
    """`request_id`, and W3C's `traceparent` of what runs now; None when there is neither."""
    found: dict[str, Any] = dict(traceparent())
    request = structlog.contextvars.get_contextvars().get("request_id")
    if request is not None:
        found["request_id"] = request
    return found or None


@contextmanager
def on_behalf(
    origin: Mapping[str, Any] | None,
    what: str,
    names: Mapping[str, str | int],
    kind: SpanKind = SpanKind.CONSUMER,
    started: int | None = None,
) -> Iterator[Span]:
    """Work that a call has asked for, or nobody (None): its span in the call's trace, see `tracing.span`.

    What is logged within has the span's names, and the call's `request_id`.
    """
    request = (origin or {}).get("request_id")
    known = {} if request is None else {"request_id": str(request)}
    with (
        structlog.contextvars.bound_contextvars(**known, **names),
        span(what, names, kind=kind, origin=origin, started=started) as current,
    ):
        yield current
