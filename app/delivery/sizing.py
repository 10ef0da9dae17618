"""What a job needs, known before a worker for which it may be too large takes it."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.outbox import Queue, notify
from app.tables.jobs import Job
from app.tables.models import Model
from app.tables.tasks import TaskKind
from app.tasks import service as tasks
from secateur.spec.method import Refine
from secateur.spec.records.plan import Needs

COMFORT: Final = 4
"""A worker with so many times the memory of the model as stored takes any job of it unasked."""
TUNED_COMFORT: Final = 16
"""The same, where the whole model is tuned, in float32 with its gradients and their moments, or does tasks."""
ESTIMATE_SECONDS: Final = 600.0
"""A job that nobody has estimated within this time goes to whoever takes it."""


def is_sized(session: Session, job: Job, room: Mapping[str, Any]) -> bool:
    """Whether a worker with that memory may take the job; if not, its estimate is now asked for.

    job: locked, and held as far as is known.
    """
    if job.needs_memory_bytes is not None or job.estimate_due_at is not None:
        return True
    memory = room["host_bytes" if room["device"] == "cpu" else "device_bytes"]
    size = session.scalar(select(Model.bytes).where(Model.id == job.model_id)) or 0
    whole = job.spec["method"].get("refine") == Refine.model or job.spec.get("tasks")
    comfort = TUNED_COMFORT if whole else COMFORT
    if size * comfort <= memory:
        return True
    job.estimate_due_at = from_now(ESTIMATE_SECONDS)
    tasks.submit(session, job.project_id, TaskKind.estimate, job.id)
    session.flush()
    return False


def note_needs(job: Job, needs: Needs | None) -> None:
    """What an engine says that the job needs."""
    if needs is not None:
        job.needs_memory_bytes = round(needs.memory_bytes)
        job.needs_host_bytes = round(needs.host_bytes)
        job.needs_device_bytes = round(needs.device_bytes)


def needs_of(job: Job) -> Needs | None:
    """As noted; None before."""
    if job.needs_memory_bytes is None or job.needs_host_bytes is None or job.needs_device_bytes is None:
        return None
    needed = (job.needs_memory_bytes, job.needs_host_bytes, job.needs_device_bytes)
    return Needs(**dict(zip(Needs.model_fields, map(float, needed), strict=True)))


def settle(session: Session, job: Job, needs: Needs | None) -> None:
    """The estimate is made, or cannot be (None): workers may take the job."""
    note_needs(job, needs)
    job.estimate_due_at = from_now(0)
    notify(session, Queue.gpu, job.id)
