"""First answers of calls that make something, kept for repetitions of the call."""

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Created, Digest, JsonList, Moment


class IdempotencyKey(Base):
    """A caller's key for one request, written in the transaction of what the request made.

    It outlives what was made: a late repetition must not make it again.
    """

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        UniqueConstraint("project_id", "key"),
        Index("ix_idempotency_keys_expires_at", "expires_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(String(255))
    fingerprint: Mapped[Digest]
    """Of method, address, query and body as sent."""
    status: Mapped[int]
    headers: Mapped[JsonList]
    """[name, value] of each that the endpoint set."""
    body: Mapped[bytes] = mapped_column(LargeBinary)
    sealed: Mapped[bool]
    """Bodies may show a secret for the one time, so they are sealed; false of rows that a migration brought."""
    created_at: Mapped[Created]
    expires_at: Mapped[Moment]
    open_until: Mapped[Moment | None]
    """The call that made it still waits for its answer until then; afterwards what is here is the answer."""
