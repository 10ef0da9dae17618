"""Metrics of the calls that a process has answered. Labels are bounded: routes as declared, methods as known."""

from typing import Any, Final

from prometheus_client import Counter, Histogram
from starlette.types import Scope

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
WAITED: Final = "waited"
"""Where a call that was held open on purpose says so in its scope's state: its duration is its caller's wish."""

REQUESTS: Final = Counter(
    "secateur_http_requests",
    "Calls answered; status 0 is one that its caller broke off.",
    ("method", "route", "status"),
    registry=None,
)
SECONDS: Final = Histogram(
    "secateur_http_request_duration_seconds",
    "From a call's arrival to the end of its answer, but for calls that wait on purpose and streams.",
    ("method", "route"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=None,
)
CALLS: Final = (REQUESTS, SECONDS)


def method_of(scope: Scope) -> str:
    """One of those that are known, or `other`."""
    return str(scope["method"]) if scope["method"] in _METHODS else "other"


def route_of(scope: Scope) -> str | None:
    """As it was declared; None where there is none at the address."""
    route: Any = scope.get("route")
    return getattr(route, "path", None)


def count_call(scope: Scope, status: int | None, seconds: float) -> None:
    """A call has ended."""
    method, route = method_of(scope), route_of(scope) or "none"
    REQUESTS.labels(method, route, str(status or 0)).inc()
    if not scope["state"].get(WAITED):
        SECONDS.labels(method, route).observe(seconds)
