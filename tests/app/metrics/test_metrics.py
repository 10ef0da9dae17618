"""What Prometheus is shown is what the database knows, in every process and after every deletion."""

import itertools
import re
import time
from collections.abc import Callable

import httpx
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, delete, update
from sqlalchemy.orm import Session

from app import counts
from app.counts import CATALOGUE, QUEUE_WAIT, observe
from app.db.clock import from_now
from app.db.engine import get_engine, transaction
from app.delivery import commits
from app.delivery.claim import claim
from app.delivery.endings import Failure, fail
from app.delivery.publish import make_manifest, publish
from app.delivery.reaper import reap_one
from app.dispatch.client import is_up
from app.kit.calls import CALLS
from app.metrics import gauges
from app.metrics.database import STATEMENT_SECONDS, DatabaseMetrics
from app.metrics.gauges import Gauge
from app.metrics.http import registry, show_metrics
from app.settings import Settings
from app.tables.counts import MetricCount
from app.tables.jobs import Job, JobLease
from app.tables.states import Reason
from app.ui.files import files
from secateur.spec.records.history import Phase
from tests.app.conftest import MakeKey
from tests.jobs import JobMaker, make_jobs
from tests.records import hello, summary

BUDGETS = {"max_attempts": 3, "max_memory_attempts": 2, "max_preemptions": 4}
Scrape = Callable[[], dict[tuple[str, str], float]]


def samples(text: str) -> dict[tuple[str, str], float]:
    """Each sample's value by its name and its labels, as `a=1,b=2`."""
    found = itertools.chain.from_iterable(family.samples for family in text_string_to_metric_families(text))
    return {(one.name, ",".join(f"{k}={v}" for k, v in sorted(one.labels.items()))): one.value for one in found}


@pytest.fixture
def scrape(settings: Settings) -> Scrape:
    """What a dispatcher shows."""
    url = settings.broker_url.get_secret_value()
    made = registry(DatabaseMetrics(settings, get_engine(), lambda: is_up(url)))
    return lambda: samples(generate_latest(made).decode())


@pytest.fixture
def jobs(session: Session) -> JobMaker:
    return make_jobs(session)


def run(outcome: Reason | None) -> None:
    """Claim the next job and end its attempt."""
    with transaction() as session:
        taken = claim(session, "w", 60)
    assert taken is not None
    with transaction() as session:
        commits.write_hello(session, taken.lease, hello(), ["d0"])
        commits.write_phase(session, taken.lease, Phase.pruning)
    with transaction() as session:
        if outcome is not None:
            fail(session, taken.lease, Failure(outcome), BUDGETS)
            return
        publish(session, taken.lease, make_manifest([], {}), summary())


def test_a_fresh_service_shows_every_counter_with_zero(scrape: Scrape) -> None:
    shown = scrape()
    assert shown["secateur_database_up", ""] == shown["secateur_broker_up", ""] == 1
    assert shown["secateur_scrape_errors", ""] == 0
    assert shown["secateur_jobs_finished_total", "outcome=failed,reason=worker_lost"] == 0
    for what in CATALOGUE:
        if what.known:
            name = f"{what.name}_count" if what.buckets else f"{what.name}_total"
            assert [value for (shown_name, _), value in shown.items() if shown_name == name] == [0.0] * len(
                what.known
            )


def test_jobs_are_counted_by_what_became_of_them(session: Session, jobs: JobMaker, scrape: Scrape) -> None:
    first, *_ = (jobs.make() for _ in range(4))
    assert scrape()["secateur_jobs", "method=copal,state=queued"] == 4
    assert scrape()["secateur_jobs_claimable", ""] == 4
    run(None)
    run(Reason.invalid_input)
    with transaction() as other:
        assert claim(other, "w", 60)
    session.execute(update(JobLease).values(expires_at=from_now(-1)))
    session.commit()
    assert scrape()["secateur_leases_overdue", ""] == 1
    with transaction() as other:
        reap_one(other, 0, BUDGETS)
    shown = scrape()
    assert shown["secateur_jobs", "method=copal,state=queued"] == 2
    assert shown["secateur_jobs_finished_total", "outcome=succeeded,reason="] == 1
    assert shown["secateur_jobs_finished_total", "outcome=failed,reason=invalid_input"] == 1
    ended = ("succeeded", "invalid_input", "worker_lost")
    assert [shown["secateur_attempts_total", f"outcome={outcome}"] for outcome in ended] == [1, 1, 1]
    assert shown["secateur_lease_expired_total", ""] == shown["secateur_reaper_requeued_total", ""] == 1
    assert shown["secateur_job_queue_wait_seconds_count", ""] == 3
    assert shown["secateur_job_run_seconds_count", "method=copal"] == 2
    assert shown["secateur_stage_seconds_count", "method=copal,phase=pruning"] == 2
    assert shown["secateur_stage_seconds_count", "method=copal,phase=staging"] == 3

    session.execute(delete(Job).where(Job.id == first))
    session.commit()
    assert scrape()["secateur_jobs_finished_total", "outcome=succeeded,reason="] == 1, "a counter never falls"


def test_what_is_added_up_stays_the_same(
    session: Session, jobs: JobMaker, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "FEW", 50)
    for _ in range(3):
        jobs.make()
        run(None)
    counted = {what.name for what in CATALOGUE}
    before = {
        key: value
        for key, value in scrape().items()
        if re.sub(r"_(total|count|sum|bucket)$", "", key[0]) in counted
    }
    with transaction() as other:
        assert not counts.fold(other), "so few are left alone"
        monkeypatch.setattr(counts, "FEW", 5)
        assert counts.fold(other)
    rows = session.query(MetricCount).all()
    assert len(rows) == len({(row.metric, str(row.labels), row.bound) for row in rows})
    assert max(row.count for row in rows) == 3
    assert before.items() <= scrape().items()
    with transaction() as other:
        monkeypatch.setattr(counts, "FEW", 0)
        counts.fold(other)
    assert before.items() <= scrape().items()


def test_a_histogram_s_bound_is_in_its_bucket(session: Session, scrape: Scrape) -> None:
    for value in (0.0, 5.0, 5.5, 15.0, 1e9):
        observe(session, QUEUE_WAIT, value)
    session.commit()
    shown = scrape()
    by_bound = {
        bound: shown["secateur_job_queue_wait_seconds_bucket", f"le={bound}"]
        for bound in ("5.0", "15.0", "86400.0", "+Inf")
    }
    assert by_bound == {"5.0": 2, "15.0": 4, "86400.0": 4, "+Inf": 5}
    assert shown["secateur_job_queue_wait_seconds_sum", ""] == pytest.approx(1e9 + 25.5)


def test_without_its_database_a_dispatcher_says_so(settings: Settings) -> None:
    nowhere = create_engine("postgresql+psycopg://nobody@127.0.0.1:9/none")
    shown = samples(generate_latest(registry(DatabaseMetrics(settings, nowhere, lambda: False))).decode())
    assert shown["secateur_database_up", ""] == shown["secateur_broker_up", ""] == 0
    assert not any(name.startswith("secateur_jobs") for name, _ in shown)
    assert not is_up("redis://127.0.0.1:9/0")


def test_a_gauge_that_fails_is_left_out_alone(scrape: Scrape, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Gauge("secateur_jobs", "Divided by nothing.", "SELECT 1 / 0")
    slow = Gauge("secateur_tasks", "Too late.", f"SELECT pg_sleep({STATEMENT_SECONDS + 5})")
    monkeypatch.setattr(gauges, "GAUGES", (broken, slow, *gauges.GAUGES[1:]))
    shown = scrape()
    assert shown["secateur_database_up", ""] == 1
    assert shown["secateur_scrape_errors", ""] == 2
    assert shown["secateur_outbox_pending", ""] == 0
    assert shown["secateur_jobs_finished_total", "outcome=succeeded,reason="] == 0


class Shown:
    """What a process of the API shows, and has counted since. A call is counted behind its answer's last byte."""

    def __init__(self, settings: Settings) -> None:
        self._port = show_metrics(settings.model_copy(update={"metrics_listen": "127.0.0.1:0"}), CALLS)
        self._before = self.now()

    def now(self) -> dict[tuple[str, str], float]:
        return samples(httpx.get(f"http://127.0.0.1:{self._port}/metrics").text)

    def await_growth(self, name: str, labels: str, by: float) -> None:
        wanted, deadline = self._before.get((name, labels), 0) + by, time.monotonic() + 30
        while self.now().get((name, labels), 0) < wanted:
            assert time.monotonic() < deadline, f"{name} {labels}"
        assert self.now()[name, labels] == wanted


def test_calls_are_counted_by_their_route(service: str, make_key: MakeKey, settings: Settings) -> None:
    shown = Shown(settings)
    headers = {"Authorization": f"Bearer {make_key()}"}
    for path in ("/v1/jobs/job_1", "/v1/jobs/job_2", "/v1/jobs", "/nowhere/at/all", "/ui/jobs/job_1", "/ui"):
        httpx.get(service + path, headers=headers)
    httpx.request("PROPFIND", f"{service}/v1/jobs")
    requests, seconds = "secateur_http_requests_total", "secateur_http_request_duration_seconds_count"
    shown.await_growth(requests, "method=GET,route=/v1/jobs/{id},status=404", 2)
    shown.await_growth(requests, "method=GET,route=/v1/jobs,status=200", 1)
    shown.await_growth(requests, "method=GET,route=none,status=404", 1)
    page = 200 if files() else 404
    shown.await_growth(requests, f"method=GET,route=/ui/{{path:path}},status={page}", 1)
    shown.await_growth(requests, "method=GET,route=/ui,status=307", 1)
    shown.await_growth(requests, "method=other,route=/v1/jobs,status=405", 1)
    shown.await_growth(seconds, "method=GET,route=/v1/jobs/{id}", 2)
    assert not [labels for _, labels in shown.now() if "job_1" in labels or "PROPFIND" in labels]


def test_a_call_that_waits_on_purpose_is_no_slow_one(api: httpx.Client, settings: Settings, job: str) -> None:
    shown = Shown(settings)
    assert api.get(f"/v1/jobs/{job}", params={"wait": "0.2"}).status_code == 200
    assert api.get(f"/v1/jobs/{job}").status_code == 200
    shown.await_growth("secateur_http_requests_total", "method=GET,route=/v1/jobs/{id},status=200", 2)
    shown.await_growth("secateur_http_request_duration_seconds_count", "method=GET,route=/v1/jobs/{id}", 1)


def test_a_port_that_cannot_be_had_keeps_nobody_from_starting(settings: Settings) -> None:
    listening = settings.model_copy(update={"metrics_listen": "127.0.0.1:0"})
    port = show_metrics(listening, CALLS)
    taken = settings.model_copy(update={"metrics_listen": f"127.0.0.1:{port}"})
    assert show_metrics(taken, CALLS) is None
    assert show_metrics(settings, CALLS) is None, "off unless it is asked for"
