"""How things stand, asked of the database at each scrape: no process has to have seen how they came about."""

from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.delivery.queue_order import CLAIMABLE
from app.settings import Settings


@dataclass(frozen=True)
class Gauge:
    """One statement, whose columns are the labels' values and then the value."""

    name: str
    help: str
    statement: str
    labels: tuple[str, ...] = ()
    kept_seconds: float = 0
    """For so long a process shows what it read: the statement reads rows that add up over the service's life."""


GAUGES: Final = (
    Gauge(
        "secateur_jobs",
        "Jobs that have not ended.",
        "SELECT state, method, count(*) FROM jobs"
        " WHERE state NOT IN ('succeeded', 'failed', 'cancelled') GROUP BY state, method",
        ("state", "method"),
    ),
    Gauge(
        "secateur_jobs_claimable",
        "Jobs that a worker with room enough would be given now.",
        f"SELECT count(*) FROM jobs j WHERE {CLAIMABLE}",  # noqa: S608 - constants only
    ),
    Gauge(
        "secateur_job_queue_oldest_seconds",
        "How long the job that has waited longest could have been claimed.",
        f"SELECT coalesce(max(extract(epoch FROM now() - greatest(j.queued_at, j.available_at))), 0) FROM jobs j"  # noqa: S608
        f" WHERE {CLAIMABLE}",
    ),
    Gauge(
        "secateur_leases_overdue",
        "Leases that ran out and that no reaper has taken.",
        "SELECT count(*) FROM job_leases WHERE expires_at < now()",
    ),
    Gauge(
        "secateur_job_progress_oldest_seconds",
        "How long the running job that has been silent longest has reported no progress.",
        "SELECT coalesce(max(extract(epoch FROM now() - greatest(p.updated_at, l.claimed_at))), 0)"
        " FROM job_leases l LEFT JOIN job_progress p ON p.job_id = l.job_id",
    ),
    Gauge(
        "secateur_tasks",
        "Tasks of the CPU queue that have not ended.",
        "SELECT kind, state, count(*) FROM tasks WHERE state IN ('queued', 'running') GROUP BY kind, state",
        ("kind", "state"),
    ),
    Gauge(
        "secateur_task_queue_oldest_seconds",
        "How long the task that has waited longest could have been claimed.",
        "SELECT coalesce(max(extract(epoch FROM now() - available_at)), 0) FROM tasks"
        " WHERE state = 'queued' AND available_at <= now()",
    ),
    Gauge(
        "secateur_outbox_pending",
        "Notifications that the broker has not been given.",
        "SELECT count(*) FROM outbox WHERE published_at IS NULL AND available_at <= now()",
    ),
    Gauge(
        "secateur_outbox_oldest_seconds",
        "Age of the oldest of them that was due at once.",
        "SELECT coalesce(max(extract(epoch FROM now() - created_at)), 0) FROM outbox"
        " WHERE published_at IS NULL AND available_at <= now()",
    ),
    Gauge(
        "secateur_worker_last_seen_timestamp_seconds",
        "When a worker of jobs last said that it is there.",
        "SELECT name, extract(epoch FROM seen_at) FROM workers",
        ("worker",),
    ),
    Gauge(
        "secateur_workers",
        "Workers of jobs that are there.",
        "SELECT d.device, count(w.name) FROM (VALUES ('cpu'), ('cuda')) d (device) LEFT JOIN workers w"
        " ON w.device = d.device AND w.seen_at > now() - make_interval(secs => :lease) GROUP BY d.device",
        ("device",),
    ),
    Gauge(
        "secateur_worker_device_ready",
        "Whether the worker's device lets it work.",
        "SELECT name, CASE health WHEN 'ready' THEN 1 ELSE 0 END FROM worker_devices"
        " WHERE seen_at > now() - make_interval(secs => :lease)",
        ("worker",),
    ),
    Gauge(
        "secateur_gpu_memory_bytes",
        "Memory of a worker's GPU. kind: `total`.",
        "SELECT name, 'total', device_bytes FROM workers WHERE device_bytes > 0",
        ("worker", "kind"),
    ),
    Gauge(
        "secateur_webhook_pending",
        "Deliveries that wait.",
        "SELECT count(*) FROM webhook_deliveries WHERE state = 'pending'",
    ),
    Gauge(
        "secateur_webhook_oldest_seconds",
        "How long the oldest delivery waits that is due and whose webhook is well.",
        "SELECT coalesce(max(extract(epoch FROM now() - d.available_at)), 0) FROM webhook_deliveries d"
        " JOIN webhooks w ON w.id = d.webhook_id WHERE d.state = 'pending' AND d.available_at <= now()"
        " AND w.enabled AND w.failing_since IS NULL",
    ),
    Gauge(
        "secateur_webhooks_disabled",
        "Webhooks that the service has switched off because they failed for too long.",
        "SELECT count(*) FROM webhooks WHERE NOT enabled AND disabled_reason IS NOT NULL",
    ),
    Gauge(
        "secateur_sweep_last_success_timestamp_seconds",
        "When a sweep of the whole store last ended well; 0 when none is on record.",
        "SELECT coalesce(max(extract(epoch FROM updated_at)), 0) FROM tasks"
        " WHERE kind = 'garbage' AND subject_id = 'store' AND state = 'succeeded'",
    ),
    Gauge(
        "secateur_stored_bytes",
        "Bytes of jobs' artifacts and checkpoints, as their projects are charged for them.",
        "SELECT coalesce(sum(stored_bytes), 0) FROM jobs WHERE stored_bytes > 0",
        kept_seconds=60,
    ),
)


def read(session: Session, gauge: Gauge, settings: Settings) -> GaugeMetricFamily:
    """The gauge as the session's snapshot has it."""
    given: dict[str, Any] = {"lease": settings.lease_seconds} if ":lease" in gauge.statement else {}
    family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
    for *labels, value in session.execute(text(gauge.statement), given):
        family.add_metric([str(label) for label in labels], float(value))
    return family
