"""A collector of traces: takes what processes export by OTLP over HTTP, and decodes it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Taken:
    """One span as it came."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    events: tuple[str, ...]
    is_error: bool
    began: int
    ended: int


class Collector:
    """What it was sent, in the order of arrival."""

    def __init__(self) -> None:
        self.spans: list[Taken] = []
        self.resources: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, trace: str) -> list[Taken]:
        """The spans of one trace, those that began first before the others."""
        return sorted((each for each in list(self.spans) if each.trace == trace), key=lambda each: each.began)

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = _attributes(resource.resource.attributes)
            self.resources.append(about)
            self.spans += [
                _span(about["service.name"], each) for scope in resource.scope_spans for each in scope.spans
            ]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                known = (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
                if known:
                    collector.take(body)
                self.send_response(200 if known else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        return Handler


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    try:
        yield collector
    finally:
        collector.close()


def _span(service: str, given: Any) -> Taken:
    return Taken(
        service=service,
        name=given.name,
        trace=given.trace_id.hex(),
        id=given.span_id.hex(),
        parent=given.parent_span_id.hex(),
        attributes=_attributes(given.attributes),
        events=tuple(event.name for event in given.events),
        is_error=given.status.code == 2,
        began=given.start_time_unix_nano,
        ended=given.end_time_unix_nano,
    )


def _attributes(given: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in given}
