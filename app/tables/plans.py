"""Plans: what a job would do, asked for without making the job. They are dropped after a while."""

from sqlalchemy import CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Created, Digest, Id, Json, Updated
from app.tables.datasets import IntakeState


class Plan(Base):
    """A spec, and once the CPU queue has looked at the model, either the plan or why there can be none."""

    __tablename__ = "plans"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'ready', 'failed')", name="state"),
        Index("ix_plans_created_at", "created_at"),
        Index("ix_plans_list", "project_id", "created_at", "id"),
    )

    id: Mapped[Id]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), index=True)
    """A plan keeps no model from deletion: it goes with it."""
    state: Mapped[str] = mapped_column(String(20), default=IntakeState.pending)
    spec: Mapped[Json]
    """As accepted, with every default written out."""
    result: Mapped[Json | None]
    error: Mapped[Json | None]
    created_at: Mapped[Created]
    updated_at: Mapped[Updated]
    spec_digest: Mapped[Digest | None]
    """The same as of a job that is made of the same body."""
