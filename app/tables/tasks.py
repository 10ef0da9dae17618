"""Work of the CPU queue: model intake, GGUF conversion, hub fetches, plans. Claimed like jobs, by SQL."""

from enum import StrEnum
from typing import Final

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Created, Id, Json, Moment, Updated
from app.kit.origin import current_origin


class TaskKind(StrEnum):
    """What a task does; `subject_id` names the row it does it for."""

    model_intake = "model_intake"
    dataset_fetch = "dataset_fetch"
    dataset_intake = "dataset_intake"
    """Read an uploaded file."""
    publication = "publication"
    """Copy a job's model to where `output.publish_to` says."""
    plan = "plan"
    estimate = "estimate"
    """Find out what a queued job needs, before a worker takes it for which it may be too large."""
    garbage = "garbage"
    """Sweep the objects of one chain of jobs, or with the subject `store` everything."""


PLANNING: Final = (TaskKind.plan, TaskKind.estimate)
"""These look at a model's headers alone; they have workers of their own beside the others."""
INTAKES: Final = (TaskKind.model_intake, TaskKind.dataset_fetch, TaskKind.dataset_intake)
"""Of these a project runs no more at once than it may: each may wait for a slow hub."""


class TaskState(StrEnum):
    """A task's life: there is no cancel, the subject's deletion makes it moot."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"


class Task(Base):
    """One piece of CPU work with its lease."""

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed')", name="state"),
        Index("ix_tasks_claim", "available_at", postgresql_where=text("state = 'queued'")),
        Index("ix_tasks_lease", "lease_expires_at", postgresql_where=text("state = 'running'")),
        Index(
            "ix_tasks_pending",
            "project_id",
            postgresql_where=text("state IN ('queued', 'running')"),
        ),
        # One sweep of a subject at a time; whoever asks for it again while it waits is answered by it.
        Index(
            "ix_tasks_garbage",
            "subject_id",
            unique=True,
            postgresql_where=text("kind = 'garbage' AND state = 'queued'"),
        ),
    )

    id: Mapped[Id]
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    """Null for work of the house itself."""
    kind: Mapped[str] = mapped_column(String(40))
    subject_id: Mapped[str] = mapped_column(String(40), index=True)
    state: Mapped[str] = mapped_column(String(20), default=TaskState.queued)
    attempts: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    lease_token: Mapped[str | None] = mapped_column(String(36))
    lease_expires_at: Mapped[Moment | None]
    started_at: Mapped[Moment | None]
    """When it was last claimed."""
    worker: Mapped[str | None] = mapped_column(String(200))
    available_at: Mapped[Created]
    error: Mapped[Json | None]
    origin: Mapped[Json | None] = mapped_column(default=current_origin)
    """The call that it came of: see kit/origin.py."""
    created_at: Mapped[Created]
    updated_at: Mapped[Updated]
