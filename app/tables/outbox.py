"""The outbox: what must be said to the broker, written in the transaction that made it true."""

from sqlalchemy import BigInteger, Identity, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Created, Json, Moment
from app.kit.origin import current_origin


class OutboxMessage(Base):
    """One notification: work of a queue may exist. Published rows are deleted after a day."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_pending", "available_at", postgresql_where=text("published_at IS NULL")),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    queue: Mapped[str] = mapped_column(String(20))
    hint: Mapped[str] = mapped_column(String(40))
    """The id of the job or task that the message is about; a worker may well claim another one."""
    created_at: Mapped[Created]
    available_at: Mapped[Created]
    """Not before this time: a dispatcher moves the row on when it takes it, so a hung broker holds no lock."""
    attempts: Mapped[int] = mapped_column(default=0)
    origin: Mapped[Json | None] = mapped_column(default=current_origin)
    """The call that it came of: see kit/origin.py."""
    published_at: Mapped[Moment | None]
