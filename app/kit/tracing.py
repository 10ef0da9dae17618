"""Spans of what the service does. They leave by OTLP where OpenTelemetry's variables name a collector; elsewhere
none is made, and asking for one costs next to nothing.

Attributes are names, numbers and ids of ours: no key, no address of a caller, no path and no text of a file.
"""

import logging
import os
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.kit.redaction import hide

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HEADERS: Final = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
"""They may hold a collector's key, which a warning about them would show."""
SPOKEN: Final = "http/protobuf"
LAST_SECONDS: Final = 3.0
"""What the last spans of a process get to leave; a collector that hangs holds up no stop."""
Attributes = Mapping[str, str | int]
_PROPAGATOR: Final = TraceContextTextMapPropagator()

_tracer = trace.get_tracer("secateur")
_provider: "TracerProvider | None" = None


def start_tracing(part: str, instance: str = "") -> None:
    """Have the process's spans exported, if the environment says where to. part: `api`, for the service's name.

    instance: tells it from others; or a random one is made. Only in a process that forks no more: its exporter is
    a thread.
    """
    global _tracer, _provider
    if not _is_wanted():
        return
    for name in HEADERS:
        for header in os.environ.get(name, "").split(","):
            hide(value.strip() for value in re.split("[=:]", header, maxsplit=1)[1:])
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.error("there are no traces: what exports them is missing; pip install 'secateur[tracing]'")
        return
    own = {"service.instance.id": instance or uuid.uuid4().hex, "service.version": version("secateur")}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        own["service.name"] = f"secateur-{part}"
    try:
        provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except Exception as error:  # whatever is wrong with a variable, the service runs without traces
        log.error("there are no traces: OpenTelemetry's variables cannot be used: %s", error)
        return
    _provider = provider
    _tracer = _provider.get_tracer("secateur", version("secateur"))


def stop_tracing() -> None:
    """Send what is left, for a bounded time."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        last = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(LAST_SECONDS)


def _is_wanted() -> bool:
    given = os.environ.get
    if given("OTEL_SDK_DISABLED", "").lower() == "true" or given("OTEL_TRACES_EXPORTER", "otlp") not in (
        "",
        "otlp",
    ):
        return False
    if not any(map(given, ENDPOINTS)):
        return False
    protocol = next(filter(None, map(given, PROTOCOLS)), SPOKEN)
    if protocol != SPOKEN:
        log.error("there are no traces: %s is %s, and only %s is spoken", PROTOCOLS[1], protocol, SPOKEN)
    return protocol == SPOKEN


@contextmanager
def span(
    name: str,
    attributes: Attributes = MappingProxyType({}),
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    origin: Mapping[str, Any] | None = None,
    started: int | None = None,
) -> Iterator[Span]:
    """The span of what is done within it; an exception ends it as an error of that class, without its words.

    attributes: without their prefix. origin: what it comes of (see kit/origin.py), in place of what runs now.
    started: a `time.time_ns()`, when it has begun before.
    """
    with _tracer.start_as_current_span(
        name,
        context=None if origin is None else _PROPAGATOR.extract(origin, Context()),
        kind=kind,
        attributes=named(attributes),
        start_time=started,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_status(Status(StatusCode.ERROR))
            current.set_attribute("error.type", type(error).__name__)
            raise


def begin(name: str, attributes: Attributes = MappingProxyType({})) -> Span:
    """A part of what runs now, which its caller ends; what is done meanwhile is not its part."""
    return _tracer.start_span(name, attributes=named(attributes))


def note_past(name: str, started: int) -> None:
    """A part of what runs now that is over. started: as of `span`."""
    _tracer.start_span(name, start_time=started).end()


def named(attributes: Attributes) -> dict[str, str | int]:
    """With our prefix: `job_id` is `secateur.job_id`."""
    return {f"secateur.{name}": value for name, value in attributes.items()}


def traceparent() -> dict[str, str]:
    """W3C's `traceparent` of what runs now; nothing where it is no part of a trace."""
    found: dict[str, str] = {}
    _PROPAGATOR.inject(found)
    return {name: value for name, value in found.items() if name == "traceparent"}
