"""What must happen every few seconds although nobody asks: the reaper's round."""

import logging
from typing import Final

from app import counts
from app.audit import repository as audit
from app.db.engine import transaction
from app.delivery import reaper
from app.delivery.endings import budgets
from app.dispatch import repository
from app.idempotency import repository as idempotency
from app.models import repository as models
from app.plans import repository as plans
from app.settings import Settings
from app.tasks import repository as task_repository
from app.tasks import service as tasks
from app.webhooks import tidying as webhooks
from app.workers import registry as workers

log = logging.getLogger(__name__)

SWEEPS_KEPT_SECONDS: Final = 7 * 86_400


def clean_round(settings: Settings) -> None:
    """One round. A step that fails does not keep the others from their work; its error is raised at the end."""
    errors: list[Exception] = []
    for step in (reap_jobs, reap_tasks, notify_again, forget, order_sweep, add_up):
        try:
            step(settings)
        except Exception as error:
            log.warning("%s failed (%s)", step.__name__, type(error).__name__)
            errors.append(error)
    if errors:
        raise errors[0]


def reap_jobs(settings: Settings) -> int:
    """Take every job whose lease has expired; how many."""
    count = 0
    while True:
        with transaction() as session:
            reaped = reaper.reap_one(session, settings.lease_seconds, budgets(settings))
        if reaped is None:
            return count
        log.warning("the lease of %s expired; the job is now %s", *reaped)
        count += 1


def reap_tasks(settings: Settings) -> int:
    """The same for the CPU queue's tasks."""
    with transaction() as session:
        reaped = tasks.reap(session, settings.lease_seconds, settings.max_attempts)
    for task_id in reaped:
        log.warning("the lease of %s expired", task_id)
    return len(reaped)


def notify_again(settings: Settings) -> int:
    """End jobs that can never start, and notify of work that nobody has come for; how many."""
    with transaction() as session:
        count = reaper.fail_unusable(session) + reaper.fail_overdue(session)
        count += reaper.notify_again(session, settings.notify_again_seconds)
        count += task_repository.notify_again(session, settings.notify_again_seconds)
    if count:
        log.info("%d jobs and tasks were published again or cannot start", count)
    return count


def forget(settings: Settings) -> int:
    """Drop messages, idempotency keys, plans, deliveries, uploads and workers whose time is over; how many."""
    with transaction() as session:
        count = repository.forget_published(session) + plans.forget(session, settings.plan_hours)
        count += tasks.forget_sweeps(session, SWEEPS_KEPT_SECONDS) + workers.forget(session)
        count += webhooks.disable_overrun(session) + webhooks.forget(session, settings.webhook_kept_days)
        count += models.expire_uploads(session, settings.upload_hours)
        return count + idempotency.forget(session) + audit.forget(session, settings.audit_days)


def order_sweep(settings: Settings) -> bool:
    """Have the CPU queue sweep the store from time to time; whether that was due."""
    with transaction() as session:
        return tasks.order_sweep_of_all(session, settings.sweep_seconds)


def add_up(_: Settings) -> bool:
    """Keep the counts of the metrics few."""
    with transaction() as session:
        return counts.fold(session)
