"""Projects and API keys. A key's text is never stored, only its HMAC."""

from sqlalchemy import ForeignKey, LargeBinary, String, UniqueConstraint
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db.base import Base
from app.db.columns import Created, Id, JsonList, Moment, Name
from app.tables.accounts import ProjectAccount


class Project(Base):
    """A tenant: everything else belongs to exactly one project."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[Id]
    name: Mapped[Name]
    created_at: Mapped[Created]
    disabled_at: Mapped[Moment | None]
    """Since then no key of it works; its jobs go on."""
    model_roots: Mapped[JsonList] = mapped_column(default=list, server_default="[]")
    """Folders of its own that it may register models from, relative to the operator's `project_roots`."""
    account: Mapped[ProjectAccount | None] = relationship(viewonly=True, lazy="selectin", uselist=False)
    """What an operator has set; None for nothing."""


class ApiKey(Base):
    """A bearer key of a project: HMAC-SHA256 of its text under the service's pepper."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("digest"),)

    id: Mapped[Id]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    name: Mapped[Name]
    hint: Mapped[str] = mapped_column(String(20))
    """The key's first characters, to recognise it in a list."""
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    scopes: Mapped[list[str]] = mapped_column(ARRAY(String(40)))
    created_at: Mapped[Created]
    expires_at: Mapped[Moment | None]
    revoked_at: Mapped[Moment | None]
    last_used_at: Mapped[Moment | None]
    """Written at most once a minute."""
    created_by: Mapped[str | None] = mapped_column(String(40))
    """The key that made it; None when the command line did."""
    rotated_at: Mapped[Moment | None]
    previous_digest: Mapped[bytes | None] = mapped_column(LargeBinary(32), index=True)
    """Of the text before the last rotation, which works until `previous_until`."""
    previous_until: Mapped[Moment | None]
    suspended: Mapped[bool] = mapped_column(default=False, server_default="false")
    """Its project is disabled; written here so that no call has to look at the project."""


class HubToken(Base):
    """A project's own token of the hub, sealed: shown to nobody, and given to this project's intakes alone."""

    __tablename__ = "hub_tokens"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    hint: Mapped[str] = mapped_column(String(20))
    updated_at: Mapped[Created]
    updated_by: Mapped[str | None] = mapped_column(String(40))
