"""Giving work to the CPU queue."""

from sqlalchemy.orm import Session

from app.dispatch.outbox import Queue, ring
from app.kit.ids import Prefix, new_id
from app.tasks.tables import Task, TaskKind, TaskState


def enqueue(session: Session, project_id: str, kind: TaskKind, subject_id: str) -> Task:
    """A queued task about `subject_id`, and a ring for it, in the caller's transaction."""
    task = Task(
        id=new_id(Prefix.task), project_id=project_id, kind=kind, subject_id=subject_id, state=TaskState.queued
    )
    session.add(task)
    ring(session, Queue.cpu, task.id)
    return task
