"""The Celery app of the workers: `celery -A worker.celery worker -Q gpu -c 1` (or `-Q cpu`, `-Q plan`).

Start it with REMAP_SIGTERM=SIGQUIT in the environment: SIGTERM then gives the running job back within seconds,
instead of waiting for hours until it is done. Celery's command reads it before it loads this module.

A message only says that there may be work. The claim decides what is done, the lease who may write, and the reaper
what happens after a loss; so every setting here is about losing no time, none about losing no work.
"""

import os

# For whoever imports this module before Celery.
os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")

import logging
from typing import Any

from billiard.common import REMAP_SIGTERM
from celery import Celery, Task
from celery.signals import worker_process_init, worker_ready

from app.db.engine import get_engine
from app.dispatch.broker import TASKS, WORKER_TRANSPORT, queues
from app.outbox import Queue
from app.settings import get_settings

app = Celery("secateur", broker=get_settings().broker_url.get_secret_value(), set_as_current=True)
app.conf.update(
    result_backend=None,
    task_ignore_result=True,
    accept_content=["json"],
    task_serializer="json",
    task_queues=queues(),
    task_default_queue=Queue.gpu.value,
    task_create_missing_queues=False,
    task_acks_late=True,
    # One way of recovery only: the reaper.
    task_reject_on_worker_lost=False,
    task_retry_on_worker_lost=False,
    task_track_started=False,
    worker_pool="prefork",
    worker_concurrency=1,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_soft_shutdown_timeout=2,
    worker_enable_soft_shutdown_on_idle=False,
    worker_hijack_root_logger=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options=WORKER_TRANSPORT,
)


@worker_ready.connect  # type: ignore[untyped-decorator]
def _look_at_environment(**_: Any) -> None:
    if REMAP_SIGTERM != "SIGQUIT":
        logging.getLogger(__name__).warning("REMAP_SIGTERM is not SIGQUIT: SIGTERM will wait for running jobs")


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _after_fork(**_: Any) -> None:
    """A connection must never be used on both sides of a fork."""
    get_engine().dispose(close=False)


@app.task(name=TASKS[Queue.gpu], bind=True)  # type: ignore[untyped-decorator]
def run_jobs(self: "Task[Any, Any]", hint: str = "") -> None:
    """Run jobs until none is left."""
    from worker.attempt import PROCESS_BACKOFF
    from worker.attempt import run_jobs as run

    run(get_settings(), self.request.hostname or "worker", backoff=PROCESS_BACKOFF)


@app.task(name=TASKS[Queue.cpu], bind=True)  # type: ignore[untyped-decorator]
def run_tasks(self: "Task[Any, Any]", hint: str = "") -> None:
    """Run the CPU queue's tasks until none is left."""
    from worker.task_runner import run_tasks as run

    run(get_settings(), self.request.hostname or "worker")


@app.task(name=TASKS[Queue.plan], bind=True)  # type: ignore[untyped-decorator]
def run_plans(self: "Task[Any, Any]", hint: str = "") -> None:
    """Make plans until none is asked for."""
    from app.tables.tasks import TaskKind
    from worker.task_runner import run_tasks as run

    run(get_settings(), self.request.hostname or "worker", [TaskKind.plan])
