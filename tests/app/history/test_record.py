"""A matrix's record is listed where it is computed, stored, answered and exported: the lists agree."""

from app.history.parquet import SCHEMA
from app.jobs.schemas import MatrixRead
from app.tables.jobs import JobMatrix
from secateur.spec.records.history import MatrixRecord

FIGURES = set(MatrixRecord.model_fields)
PLACE = {"job", "lineage_stage", "stage", "domain", "block"}


def test_every_figure_has_a_column() -> None:
    assert set(JobMatrix.__table__.columns.keys()) - {"job_id", "stage", "block"} == FIGURES


def test_every_figure_is_answered() -> None:
    assert MatrixRead.model_fields.keys() - PLACE == FIGURES


def test_every_figure_is_exported() -> None:
    assert set(SCHEMA.names) >= FIGURES
