"""What is counted in the transaction that makes it true, and survives every process and the jobs' deletion."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Double, cast, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from app.tables.counts import MetricCount
from app.tables.jobs import Outcome
from app.tables.states import Reason, State
from app.tables.tasks import TaskKind

Number = float | ColumnElement[Any]


@dataclass(frozen=True)
class Counted:
    """A counter, or with `buckets` a histogram."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    known: tuple[tuple[str, ...], ...] = ((),)
    """Values of the labels that are shown with zero before the first is counted."""
    buckets: tuple[float, ...] = ()
    """Upper bounds, in the metric's unit."""


_MINUTE: Final = 60.0
_HOUR: Final = 3600.0


def _each(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((str(name),) for name in names)


JOBS_FINISHED: Final = Counted(
    "secateur_jobs_finished",
    "Jobs that have ended; of those that failed, why.",
    ("outcome", "reason"),
    (("succeeded", ""), ("cancelled", ""), *(("failed", str(reason)) for reason in Reason)),
)
QUEUE_WAIT: Final = Counted(
    "secateur_job_queue_wait_seconds",
    "From a job's coming into the queue to its claim.",
    buckets=(5, 15, 30, 60, 120, 300, 600, 1200, 1800, _HOUR, 3 * _HOUR, 12 * _HOUR, 24 * _HOUR),
)
RUN_SECONDS: Final = Counted(
    "secateur_job_run_seconds",
    "What a job that has ended took of workers, over all its attempts.",
    ("method",),
    (),
    (10, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, 24 * _HOUR),
)
PHASE_SECONDS: Final = Counted(
    "secateur_stage_seconds",
    "How long attempts were in a phase before the next one, or their end.",
    ("method", "phase"),
    (),
    (1, 10, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 3 * _HOUR, 12 * _HOUR),
)
ATTEMPTS: Final = Counted(
    "secateur_attempts", "Attempts that have ended.", ("outcome",), _each((*Outcome, *Reason))
)
LEASES_EXPIRED: Final = Counted("secateur_lease_expired", "Leases that ran out, so that the reaper took the job.")
LEASES_LOST: Final = Counted("secateur_lease_lost", "Attempts whose worker found that its lease was gone.")
REQUEUED: Final = Counted("secateur_reaper_requeued", "Jobs that the reaper gave back to the queue.")
TASKS_FINISHED: Final = Counted(
    "secateur_tasks_finished",
    "Tasks of the CPU queue that have ended.",
    ("kind", "outcome"),
    tuple((str(kind), outcome) for kind in TaskKind for outcome in ("succeeded", "failed")),
)
DELIVERIES: Final = Counted(
    "secateur_webhook_deliveries",
    "Attempts at webhooks; `failed` has no further one.",
    ("outcome",),
    _each(("succeeded", "retried", "failed")),
)
ARTIFACT_BYTES: Final = Counted("secateur_artifact_bytes", "Bytes of artifacts.", ("op",), _each(("published",)))

CATALOGUE: Final = (
    *(JOBS_FINISHED, QUEUE_WAIT, RUN_SECONDS, PHASE_SECONDS, ATTEMPTS, LEASES_EXPIRED, LEASES_LOST),
    *(REQUEUED, TASKS_FINISHED, DELIVERIES, ARTIFACT_BYTES),
)


@dataclass(frozen=True)
class Sum:
    """All that was counted of one metric, with these labels, in one bucket."""

    metric: str
    labels: dict[str, str]
    bound: float | None
    count: int
    total: float


def count(session: Session, what: Counted, amount: Number = 1, **labels: str) -> None:
    """Add to a counter."""
    session.add(MetricCount(metric=what.name, labels=labels, count=1, total=amount))


def observe(session: Session, what: Counted, value: Number, **labels: str) -> None:
    """One observation for a histogram; `value` may be an expression of the database, as what its clock says."""
    bounds = func.unnest(cast([float(each) for each in what.buckets], ARRAY(Double))).column_valued("bound")
    within = select(func.min(bounds)).where(bounds >= value).scalar_subquery()
    session.add(MetricCount(metric=what.name, labels=labels, bound=within, count=1, total=value))


def count_end_of_job(session: Session, method: str, state: State, reason: str | None, seconds: Number) -> None:
    """A job has reached a terminal state. seconds: what it took of workers."""
    count(session, JOBS_FINISHED, outcome=state, reason=str(reason) if state is State.failed else "")
    observe(session, RUN_SECONDS, seconds, method=method)


def sums(session: Session) -> Sequence[Sum]:
    """Everything that was ever counted."""
    of = MetricCount
    key = (of.metric, of.labels, of.bound)
    rows = session.execute(select(*key, func.sum(of.count), func.sum(of.total)).group_by(*key))
    return [Sum(metric, labels, bound, int(number), float(total)) for metric, labels, bound, number, total in rows]


_FOLD: Final = text("""
    WITH gone AS (
        DELETE FROM metric_counts WHERE id IN (
            SELECT id FROM metric_counts ORDER BY id LIMIT 100000 FOR UPDATE SKIP LOCKED
        ) RETURNING metric, labels, bound, count, total
    )
    INSERT INTO metric_counts (metric, labels, bound, count, total)
    SELECT metric, labels, bound, sum(count), sum(total) FROM gone GROUP BY metric, labels, bound
""")
_MANY: Final = text("SELECT count(*) FROM (SELECT FROM metric_counts LIMIT :most) AS first_rows")
FEW: Final = 2000
"""Rows that are not worth adding up."""


def fold(session: Session) -> bool:
    """Add up rows that are alike, where there are many; whether it did. In any snapshot the sums are the same."""
    if session.scalars(_MANY, {"most": FEW + 1}).one() <= FEW:
        return False
    session.execute(_FOLD)
    return True
