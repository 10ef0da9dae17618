"""Spans leave for a collector where the environment names one, and nothing is made elsewhere."""

import logging
from collections.abc import Iterator

import pytest
from opentelemetry.trace import SpanKind
from structlog.contextvars import bound_contextvars, get_contextvars

from app.kit import redaction, tracing
from app.kit.origin import current_origin, on_behalf
from app.kit.redaction import redact
from app.kit.tracing import begin, note_past, span, start_tracing, stop_tracing
from tests.collector import Collector, collecting

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ORIGIN = {"request_id": "asked", "traceparent": f"00-{TRACE}-{CALLER}-01"}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No other test's process exports what this one's does."""
    for name in (*tracing.ENDPOINTS, *tracing.PROTOCOLS, "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracing, "_tracer", tracing._tracer)
    monkeypatch.setattr(tracing, "_provider", None)
    yield
    stop_tracing()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


def test_work_is_a_part_of_the_call_that_asked_for_it(collector: Collector) -> None:
    start_tracing("worker-gpu", "gpu0@here")
    with on_behalf(ORIGIN, "attempt", {"job_id": "job_1", "attempt": 2}, started=17) as current:
        note_past("claim", 17)
        phase = begin("pruning", {"stage": 0})
        made = current_origin()
        phase.end()
    stop_tracing()
    attempt, claim, pruning = (
        next(s for s in collector.spans if s.name == n) for n in ("attempt", "claim", "pruning")
    )
    assert {each.trace for each in collector.spans} == {TRACE}
    assert (attempt.parent, claim.parent, pruning.parent) == (CALLER, attempt.id, attempt.id)
    assert attempt.attributes == {"secateur.job_id": "job_1", "secateur.attempt": 2}
    assert (attempt.began, claim.began, pruning.attributes) == (17, 17, {"secateur.stage": 0})
    assert made == {"request_id": "asked", "traceparent": f"00-{TRACE}-{attempt.id}-01"}
    assert current.get_span_context().span_id == int(attempt.id, 16)
    about = collector.resources[0]
    assert (about["service.name"], about["service.instance.id"]) == ("secateur-worker-gpu", "gpu0@here")


def test_an_exception_is_named_by_its_class_alone(collector: Collector) -> None:
    start_tracing("api")
    with pytest.raises(ValueError, match="secret"), span("submission"):
        raise ValueError("secret /path")
    stop_tracing()
    (failed,) = collector.spans
    assert failed.is_error
    assert failed.attributes == {"error.type": "ValueError"}
    assert failed.events == ()


@pytest.mark.parametrize("name", ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_SCHEDULE_DELAY"])
def test_a_wrong_variable_costs_the_traces_and_not_the_service(
    name: str, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, "-1")
    start_tracing("api")
    assert "there are no traces" in caplog.text
    with span("submission") as made:
        assert not made.is_recording()


def test_a_collectors_key_is_hidden(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setattr(redaction, "_secrets", redaction._secrets)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=ours,x-api-key: 0123456789abcdef")
    start_tracing("api")
    redaction.hide(["another-long-secret"])
    assert redact("x-api-key: 0123456789abcdef, another-long-secret") == "x-api-key: [hidden], [hidden]"


@pytest.mark.parametrize(
    "given",
    [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}],
)
def test_nothing_is_exported_unless_it_is_asked_for(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if given:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    start_tracing("api")
    assert tracing._provider is None
    with span("submission", kind=SpanKind.SERVER) as current:
        assert not current.is_recording()
        assert current_origin() is None


def test_without_a_collector_the_caller_s_trace_is_handed_on() -> None:
    with on_behalf(ORIGIN, "attempt", {"job_id": "job_1"}) as current:
        assert not current.is_recording()
        assert current_origin() == ORIGIN
        assert get_contextvars()["job_id"] == "job_1"
    assert "job_id" not in get_contextvars()


def test_nobody_s_work_has_no_request() -> None:
    with bound_contextvars(worker="w"), on_behalf(None, "garbage", {"task_id": "t"}):
        assert get_contextvars() == {"worker": "w", "task_id": "t"}


def test_a_protocol_that_is_not_spoken_is_said(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with caplog.at_level(logging.ERROR):
        start_tracing("api")
    assert tracing._provider is None
    assert "only http/protobuf is spoken" in caplog.text
