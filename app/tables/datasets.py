"""Datasets: a domain's text, uploaded or fetched from a hub, hashed and immutable."""

from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Created, Id, Json, Name, Updated


class IntakeState(StrEnum):
    """Life of a dataset or a model: usable in a job only when ready (a job may name a pending one)."""

    pending = "pending"
    ready = "ready"
    failed = "failed"


class Dataset(Base):
    """Text in one object of the store: plain text, or JSON lines with a field that holds the text or messages."""

    __tablename__ = "datasets"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'ready', 'failed')", name="state"),
        CheckConstraint("source IN ('upload', 'hub')", name="source"),
        CheckConstraint("format IN ('txt', 'jsonl', 'chat')", name="format"),
        Index("ix_datasets_list", "project_id", "created_at", "id"),
        Index("ix_datasets_object_key", "object_key"),
    )

    id: Mapped[Id]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[Name]
    state: Mapped[str] = mapped_column(String(20))
    source: Mapped[str] = mapped_column(String(20))
    format: Mapped[str] = mapped_column(String(10))
    text_field: Mapped[str | None] = mapped_column(String(200))
    hub: Mapped[Json | None]
    """`id`, `config`, `split`, `revision`, `text_field` as asked for; `commit` once fetched."""
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    documents: Mapped[int | None] = mapped_column(BigInteger)
    characters: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    object_key: Mapped[str | None] = mapped_column(String(400))
    """Of a pending upload: of the file as it was sent."""
    error: Mapped[Json | None]
    created_at: Mapped[Created]
    updated_at: Mapped[Updated]
    upload: Mapped[Json | None]
    """`format`, `compression`, `text_field`, `bytes`, `sha256` of the file as sent; `null_rows` once read."""
