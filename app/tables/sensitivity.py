"""The history of sensitivities: how important each matrix's weights were, to one domain and to all so far."""

from typing import ClassVar, Final

from sqlalchemy import Double, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Json
from secateur.spec.records.history import Basis


class MatrixSummary(Base):
    """Summary of one matrix's scores in one stage."""

    __abstract__ = True
    basis: ClassVar[Basis]

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    matrix: Mapped[str] = mapped_column(String(300), primary_key=True)
    domain: Mapped[str] = mapped_column(String(200))
    block: Mapped[int]
    mean: Mapped[float] = mapped_column(Double)
    total: Mapped[float] = mapped_column(Double)
    quantiles: Mapped[Json]
    histogram: Mapped[Json]


class JobSensitivity(MatrixSummary):
    """Of the scores that chose the mask, which are of all domains so far."""

    __tablename__ = "job_sensitivities"
    __table_args__ = (Index("ix_job_sensitivities_block", "job_id", "block"),)
    basis = Basis.accumulated


class JobDomainSensitivity(MatrixSummary):
    """Of the scores that the stage's own domain alone gives. A table of its own, because the release before runs
    on with the other one's key; stages of earlier releases have no rows here."""

    __tablename__ = "job_domain_sensitivities"
    __table_args__ = (Index("ix_job_domain_sensitivities_block", "job_id", "block"),)
    basis = Basis.domain


TABLES: Final[dict[Basis, type[MatrixSummary]]] = {
    table.basis: table for table in (JobSensitivity, JobDomainSensitivity)
}
