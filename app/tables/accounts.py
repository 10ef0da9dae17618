"""What a project has been given lately, and what it may have: fair shares and quotas."""

from typing import Any

from sqlalchemy import CheckConstraint, Double, ForeignKey, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Created


class ProjectAccount(Base):
    """What an operator has set for one project; a project without a row has share 1 and the settings' quotas."""

    __tablename__ = "project_accounts"
    __table_args__ = (CheckConstraint("share > 0", name="share"),)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    share: Mapped[float] = mapped_column(Double, default=1.0, server_default="1")
    """Its weight where projects compete: with share 2 it gets twice as much as one with share 1."""
    quotas: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict, server_default="{}")
    """Its own quotas by their names; null is no limit, and one that is missing is the setting's."""


class ProjectService(Base):
    """Seconds of worker time that a project has had of one queue, each counting half as much one half-life later.

    Running attempts are not in it: they are added when they end, so that deleting a job takes nothing back.
    """

    __tablename__ = "project_service"
    __table_args__ = ({"postgresql_with": {"fillfactor": "50"}},)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    queue: Mapped[str] = mapped_column(String(20), primary_key=True)
    seconds: Mapped[float] = mapped_column(Double)
    """As they counted at `at`."""
    at: Mapped[Created]
