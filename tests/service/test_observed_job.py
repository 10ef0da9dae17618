"""One job through all processes as its operator sees it: one trace, and a log of JSON lines without a secret.

Slow: only all processes together show that what each writes and sends belongs together.
"""

import json
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy.orm import Session

from app.auth.scopes import ORDINARY
from app.auth.service import create_key
from app.local.ports import free_ports
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.states import State
from tests import tiny
from tests.app.webhooks.conftest import LOOPBACK, Receiver
from tests.collector import Collector, Taken, collecting
from tests.jobs import CALIBRATION, JobMaker
from tests.worker.harness import Watch, dispatcher, make_tiny_jobs, process, wait_until, worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
REQUEST = "asked-by-the-test"
BLOCKS = 2
OTHERS = 120.0
"""Seconds for what the other processes do, however busy the machine is."""


@dataclass(frozen=True)
class Observed:
    """What a job has left with the operator, after every process has stopped."""

    job: str
    spans: list[Taken]
    written: dict[str, str]
    """By each process."""
    secrets: dict[str, str]
    places: tuple[str, ...]
    """Of files, which no span may name."""

    def span(self, name: str) -> Taken:
        (found,) = (each for each in self.spans if each.name == name)
        return found

    def lines(self, part: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written[part].splitlines()]


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """One attempt on however busy a machine, no estimate, and receivers on this machine."""
    return environment | {
        "SECATEUR_LEASE_SECONDS": "300",
        "SECATEUR_ROUTE_BY_MEMORY": "false",
        "SECATEUR_WEBHOOK_HTTP": "1",
        "SECATEUR_WEBHOOK_NETWORKS": LOOPBACK,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }


@pytest.fixture
def observed(
    environment: dict[str, str], settings: Settings, session: Session, store: ObjectStore, tmp_path: Path
) -> Observed:
    receiver = Receiver()
    model = tiny.make_tiny_llama(tmp_path / "tiny", blocks=BLOCKS)
    jobs = make_tiny_jobs(session, store, model, domains=1)
    key = create_key(session, "ours", "tests", ORDINARY, None).text
    session.commit()
    (port,) = free_ports(1)
    logs = {part: tmp_path / f"{part}.log" for part in ("api", "dispatcher", "webhooks", "worker")}
    serve = [sys.executable, "-m", "app.serve", "--port", str(port)]
    with collecting() as collector, ExitStack() as running:
        given = environment | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        started: list[psutil.Process] = [
            running.enter_context(process(serve, given, logs["api"])),
            running.enter_context(dispatcher(given, logs["dispatcher"])),
            running.enter_context(process([sys.executable, "-m", "app.webhooks"], given, logs["webhooks"])),
            running.enter_context(worker(given, logs["worker"])),
        ]
        job = _submit(f"http://127.0.0.1:{port}", key, jobs, receiver)
        assert Watch(session, job).wait_for_end(500) is State.succeeded
        wait_until(lambda: bool(receiver.got), OTHERS)
        _stop(started)
        _wait_for_spans(collector)
    receiver.close()
    secrets = {
        name: each for name in ("secret", "database_url", "broker_url") if (each := _secret(settings, name))
    }
    written = {part: log.read_text() for part, log in logs.items()}
    places = (str(tmp_path), str(Path(__file__).parents[2]))
    return Observed(job, collector.of(TRACE), written, {**secrets, "key": key}, places)


def _submit(url: str, key: str, jobs: JobMaker, receiver: Receiver) -> str:
    headers = {"Authorization": f"Bearer {key}"}
    wait_until(lambda: _answers(f"{url}/livez"), OTHERS)
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
        hook = {"url": receiver.url, "states": ["succeeded"]}
        assert client.post("/v1/webhooks", json=hook).status_code == 201
        assert client.get(f"/v1/jobs/{key}").status_code in (404, 422)
        (text,) = jobs.datasets
        domain = {"name": "garden", "dataset": text, "calibration": CALIBRATION, "evaluation": jobs.evaluation}
        body = {
            "model": jobs.model,
            "method": {"name": "admm"},
            "sparsity": {"target": 0.5, "allocation": "error"},
            "domains": [domain],
            "evaluation": {"sequence_length": 32, "max_windows": 2},
        }
        asked = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-Id": REQUEST}
        made = client.post("/v1/jobs", json=body, headers=asked)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _stop(started: list[psutil.Process]) -> None:
    """As an operator does: what each says and sends at its end is there, too."""
    for each in started:
        each.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(started, timeout=OTHERS)
    assert not alive


def _wait_for_spans(collector: Collector) -> None:
    last = {"webhook", "attempt", "POST /v1/jobs"}
    wait_until(lambda: last <= {each.name for each in collector.of(TRACE)}, 30)


def _secret(settings: Settings, name: str) -> str:
    """Of a URL its password."""
    value: str = getattr(settings, name).get_secret_value()
    return httpx.URL(value).password if "://" in value else value


def test_a_job_is_one_trace_and_one_log(observed: Observed) -> None:
    _is_one_trace(observed)
    _says_what_became_of_the_job(observed)
    _has_no_secret_path_or_text(observed)
    for part in observed.written:
        _is_json_lines(observed.lines(part))
    _shows_no_secret(observed)
    _is_found_by_one_search(observed)


def _is_one_trace(observed: Observed) -> None:
    """From the call over the engine's phases to the webhook."""
    parents = {each.id: each.name for each in observed.spans}
    tree = {(parents.get(each.parent, each.parent), each.name, each.service) for each in observed.spans}
    service = "secateur-worker-gpu"
    assert tree == {
        (CALLER, "POST /v1/jobs", "secateur-api"),
        ("POST /v1/jobs", "submission", "secateur-api"),
        ("submission", "dispatch", "secateur-dispatcher"),
        ("submission", "attempt", service),
        ("attempt", "claim", service),
        ("attempt", "staging", service),
        ("attempt", "engine", service),
        ("engine", "evaluating", service),
        ("engine", "surveying", service),
        ("engine", "pruning", service),
        ("engine", "tuning", service),
        ("engine", "publishing", service),
        ("engine", "publish", service),
        ("submission", "webhook", "secateur-webhooks"),
    }


def _says_what_became_of_the_job(observed: Observed) -> None:
    call, attempt, pruning = observed.span("POST /v1/jobs"), observed.span("attempt"), observed.span("pruning")
    assert call.attributes["http.response.status_code"] == 201
    assert call.attributes["secateur.request_id"] == REQUEST
    assert observed.span("submission").attributes == {"secateur.job_id": observed.job}
    known = {name.removeprefix("secateur."): value for name, value in attempt.attributes.items()}
    assert (known["job_id"], known["attempt"], known["fence"]) == (observed.job, 1, 1)
    assert known["state"] == "succeeded"
    assert pruning.events == ("block",) * BLOCKS
    assert not [each.name for each in observed.spans if each.is_error]
    for each in observed.spans:
        if each.service == attempt.service:
            assert attempt.began <= each.began <= each.ended <= attempt.ended, each.name


def _has_no_secret_path_or_text(observed: Observed) -> None:
    for each in observed.spans:
        said = json.dumps(each.attributes)
        for hidden in (*observed.secrets.values(), *observed.places, "gardener", ".txt"):
            assert hidden not in said, each.name


def _is_json_lines(lines: list[dict[str, Any]]) -> None:
    assert lines
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line), line
        assert line["level"] in {"info", "warning", "error", "critical"}


def _shows_no_secret(observed: Observed) -> None:
    everything = "\n".join(observed.written.values())
    assert set(observed.secrets) == {"secret", "database_url", "broker_url", "key"}
    for name, secret in observed.secrets.items():
        assert secret not in everything, name
    assert "/v1/jobs/[hidden]" in everything, "the key stood in an address"


def _is_found_by_one_search(observed: Observed) -> None:
    worked = [line for line in observed.lines("worker") if line.get("job_id") == observed.job]
    assert {"the attempt begins", "the attempt left the job succeeded"} <= {line["message"] for line in worked}
    for line in worked:
        about = {name: line[name] for name in ("request_id", "attempt", "fence", "worker", "trace_id")}
        assert about == {"request_id": REQUEST, "attempt": 1, "fence": 1, "worker": "w1@tests", "trace_id": TRACE}
    of_call = (line for line in observed.lines("api") if line.get("request_id") == REQUEST)
    asked = [line for line in of_call if line["logger"] == "app.http"]
    assert [(line["route"], line["status"], line["trace_id"]) for line in asked] == [("/v1/jobs", 201, TRACE)]
    (sent,) = (line for line in observed.lines("webhooks") if line.get("job_id") == observed.job)
    assert (sent["request_id"], sent["trace_id"], sent["attempt"]) == (REQUEST, TRACE, 1)
    assert sent["delivery"] == observed.span("webhook").attributes["secateur.delivery"]
