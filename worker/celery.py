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
from typing import Any, NoReturn

from billiard.common import REMAP_SIGTERM
from celery import Celery, Task
from celery.signals import celeryd_after_setup, worker_process_init, worker_process_shutdown, worker_ready

import worker.celery_log  # noqa: F401 - for its signals
from app.db.engine import get_engine
from app.dispatch.broker import TASKS, WORKER_TRANSPORT, queues
from app.kit.tracing import start_tracing, stop_tracing
from app.outbox import Queue
from app.settings import get_settings
from worker.attempt.device_gate import process_gate
from worker.attempt.device_watch import DeviceWatch
from worker.attempt.presence import Presence
from worker.device.lock import DeviceTaken

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
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options=WORKER_TRANSPORT,
)


_present: list[Presence] = []
_watches: list[DeviceWatch] = []
"""Of this process, if it runs jobs: the worker's row, and its device's."""


@worker_ready.connect  # type: ignore[untyped-decorator]
def _look_at_environment(**_: Any) -> None:
    if REMAP_SIGTERM != "SIGQUIT":
        logging.getLogger(__name__).warning("REMAP_SIGTERM is not SIGQUIT: SIGTERM will wait for running jobs")


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _after_fork(sender: str | None = None, **_: Any) -> None:
    """A connection must never be used on both sides of a fork, and no thread crosses one."""
    get_engine().dispose(close=False)
    name = sender or "worker"
    start_tracing("-".join(("worker", *sorted(app.amqp.queues.consume_from))), name)
    if Queue.gpu in app.amqp.queues.consume_from:
        _present.append(Presence(get_settings(), name, process_gate()))
        _present[-1].start()
        _watches.append(DeviceWatch(get_settings(), name, process_gate()))
        _watches[-1].start()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _before_exit(**_: Any) -> None:
    for watch in _watches:
        watch.stop()
    for presence in _present:
        presence.stop()
    stop_tracing()


@celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _take_device(instance: Any, **_: Any) -> None:
    """The GPU of a worker that runs jobs, before it forks. One that another worker has keeps this one from
    starting; one that is sick does not."""
    if Queue.gpu.value not in instance.app.amqp.queues.consume_from:
        return
    gate = process_gate()
    try:
        finding = gate.look()
    except DeviceTaken as error:
        _do_not_start(str(error))
    if gate.uuid is not None and instance.concurrency > 1:
        _do_not_start("a GPU takes one job at a time: start its worker with `-c 1`")
    if finding.said:
        logging.getLogger(__name__).error("the GPU is not ready: %s", finding.said)


def _do_not_start(why: str) -> NoReturn:
    logging.getLogger(__name__).critical("%s", why)
    raise SystemExit(1)


@app.task(name=TASKS[Queue.gpu], bind=True)  # type: ignore[untyped-decorator]
def run_jobs(self: "Task[Any, Any]", hint: str = "") -> None:
    """Run jobs until none is left."""
    from worker.attempt import PROCESS_BACKOFF
    from worker.attempt import run_jobs as run

    for presence in _present:
        presence.wait()
    run(get_settings(), self.request.hostname or "worker", backoff=PROCESS_BACKOFF, gate=process_gate())


@app.task(name=TASKS[Queue.cpu], bind=True)  # type: ignore[untyped-decorator]
def run_tasks(self: "Task[Any, Any]", hint: str = "") -> None:
    """Run the CPU queue's tasks until none is left."""
    from worker.task_runner import run_tasks as run

    run(get_settings(), self.request.hostname or "worker")


@app.task(name=TASKS[Queue.plan], bind=True)  # type: ignore[untyped-decorator]
def run_plans(self: "Task[Any, Any]", hint: str = "") -> None:
    """Make plans and estimates until none is asked for."""
    from app.tables.tasks import PLANNING
    from worker.task_runner import run_tasks as run

    run(get_settings(), self.request.hostname or "worker", PLANNING)
