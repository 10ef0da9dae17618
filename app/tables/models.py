"""Models: safetensors folders in the store, whatever they came from."""

from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Created, Id, Json, JsonList, Name, Updated


class ModelState(StrEnum):
    """Life of a model: that of an intake, and before it the time in which its files are sent."""

    uploading = "uploading"
    pending = "pending"
    ready = "ready"
    failed = "failed"


class Model(Base):
    """A dense model: after intake, a list of content-addressed files and what they describe."""

    __tablename__ = "models"
    __table_args__ = (
        CheckConstraint("state IN ('uploading', 'pending', 'ready', 'failed')", name="state"),
        Index("ix_models_list", "project_id", "created_at", "id"),
    )

    id: Mapped[Id]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[Name]
    state: Mapped[str] = mapped_column(String(20))
    source: Mapped[Json]
    """`type` (folder, hub, gguf, upload) and its fields as asked for; `commit` once a revision is resolved."""
    architecture: Mapped[str | None] = mapped_column(String(200))
    model_type: Mapped[str | None] = mapped_column(String(100))
    dtype: Mapped[str | None] = mapped_column(String(20))
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    blocks: Mapped[int | None]
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    digest: Mapped[str | None] = mapped_column(String(64))
    """sha256 over the sorted (path, sha256) pairs of `files`."""
    files: Mapped[JsonList | None]
    """`path`, `sha256`, `bytes`, `key` of each file."""
    license: Mapped[Json | None]
    """`id`, `name`, `link` of the licence that the model's card names."""
    warnings: Mapped[JsonList] = mapped_column(default=list, server_default="[]")
    """`code`, `message`, `data` of what the owner should know about a model that is ready."""
    error: Mapped[Json | None]
    created_at: Mapped[Created]
    updated_at: Mapped[Updated]


class ModelPart(Base):
    """Bytes [start, start + bytes) of a file of a model that is being uploaded: one object of the store.

    The parts of a file follow one another without a gap, so that their sum is what has been received.
    """

    __tablename__ = "model_parts"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(200), primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    object_key: Mapped[str] = mapped_column(String(400), index=True)
    created_at: Mapped[Created]
