"""Workers that run jobs, as they described themselves at their start."""

from sqlalchemy import BigInteger, CheckConstraint, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Created, Json


class Worker(Base):
    """A process of the queue of jobs. One that was not seen for a lease's time is gone, whatever its row says."""

    __tablename__ = "workers"
    __table_args__ = (
        CheckConstraint("device IN ('cpu', 'cuda')", name="device"),
        {"postgresql_with": {"fillfactor": "50"}},
    )

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    """As in leases and attempts."""
    device: Mapped[str] = mapped_column(String(10))
    device_bytes: Mapped[int] = mapped_column(BigInteger)
    """Memory of its GPU, of each of several; 0 without one."""
    host_bytes: Mapped[int] = mapped_column(BigInteger)
    """Memory that its engine may hold."""
    harness: Mapped[str | None] = mapped_column(String(40))
    """Version of lm-eval, where it is installed: only there jobs with tasks are run."""
    machine: Mapped[Json]
    """All of `secateur.spec.records.machine.Machine`."""
    started_at: Mapped[Created]
    seen_at: Mapped[Created]


class WorkerDevice(Base):
    """How a worker's device is; a row of its own, because one whose GPU is sick cannot measure its machine."""

    __tablename__ = "worker_devices"
    __table_args__ = (
        CheckConstraint("health IN ('ready', 'shared', 'sick')", name="health"),
        {"postgresql_with": {"fillfactor": "50"}},
    )

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    """As in `workers`."""
    device: Mapped[str] = mapped_column(String(60), server_default="auto")
    uuid: Mapped[str | None] = mapped_column(String(1000))
    """Of several GPUs, with commas between."""
    health: Mapped[str] = mapped_column(String(20), server_default="ready")
    said: Mapped[str] = mapped_column(String(1000), server_default="")
    """Why it is not ready, for operators."""
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    """Digest of what decides the bits of what it computes, once an engine has said so."""
    since: Mapped[Created]
    """When its health was last another one."""
    seen_at: Mapped[Created]
