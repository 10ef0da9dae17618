"""The audit log: who changed what, written with the change."""

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Created, Id


class AuditEvent(Base):
    """One change, or the refusals of one kind within some seconds. It outlives what it is about."""

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_project", "project_id", "id"),
        Index("ix_audit_events_key", "key_id", "id"),
        Index("ix_audit_events_object", "object_id", "id"),
        Index("ix_audit_events_at", "at"),
    )

    id: Mapped[Id]
    at: Mapped[Created]
    project_id: Mapped[str | None] = mapped_column(String(40))
    """Whose log it is in: the project that was changed. None when nobody knows."""
    actor_project: Mapped[str | None] = mapped_column(String(40))
    """The project of the key that asked; an operator's is another one."""
    key_id: Mapped[str | None] = mapped_column(String(40))
    """None for the command line, and for keys that are none."""
    action: Mapped[str] = mapped_column(String(80))
    """The call's `operationId`."""
    object_id: Mapped[str | None] = mapped_column(String(100))
    outcome: Mapped[str] = mapped_column(String(60))
    """`done`, or the code of the problem."""
    count: Mapped[int] = mapped_column(default=1, server_default="1")
    request_id: Mapped[str | None] = mapped_column(String(128))
    client: Mapped[str | None] = mapped_column(String(64))
