"""What has happened so far, for the service's metrics: jobs may be deleted, these counts stay."""

from sqlalchemy import BigInteger, Double, Identity, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.columns import Json


class MetricCount(Base):
    """So many observations of a counter or of a histogram's bucket. Rows are only added, so that nobody waits for
    another one's; from time to time the reaper's round adds up those that are alike."""

    __tablename__ = "metric_counts"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    metric: Mapped[str] = mapped_column(String(80))
    labels: Mapped[Json]
    bound: Mapped[float | None] = mapped_column(Double)
    """Upper bound of the histogram's bucket; null for the last one, and for a counter."""
    count: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[float] = mapped_column(Double)
    """A counter's value, or the sum of what was observed."""
