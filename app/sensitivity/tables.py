"""The history of sensitivities: how important each matrix's weights were to each domain."""

from sqlalchemy import Double, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Json


class JobSensitivity(Base):
    """Summary of the scores that chose one matrix's mask in one stage."""

    __tablename__ = "job_sensitivities"
    __table_args__ = (Index("ix_job_sensitivities_block", "job_id", "block"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    matrix: Mapped[str] = mapped_column(String(300), primary_key=True)
    domain: Mapped[str] = mapped_column(String(200))
    block: Mapped[int]
    mean: Mapped[float] = mapped_column(Double)
    total: Mapped[float] = mapped_column(Double)
    quantiles: Mapped[Json]
    histogram: Mapped[Json]
