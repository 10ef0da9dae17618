"""A matrix's record is listed where it is computed, stored, answered and exported: the lists agree."""

from dataclasses import fields

from app.delivery.commits import _RECORD as WRITTEN
from app.history.parquet import SCHEMA
from app.jobs.schemas import MatrixRead
from app.tables.jobs import JobMatrix
from worker.pruning.events import MatrixRecord

FIGURES = {field.name for field in fields(MatrixRecord)}
PLACE = {"job", "lineage_stage", "stage", "domain", "block"}


def test_every_figure_is_written() -> None:
    assert {*WRITTEN, "matrix"} == FIGURES


def test_every_figure_has_a_column() -> None:
    assert set(JobMatrix.__table__.columns.keys()) - {"job_id", "stage", "block"} == FIGURES


def test_every_figure_is_answered() -> None:
    assert MatrixRead.model_fields.keys() - PLACE == FIGURES


def test_every_figure_is_exported() -> None:
    assert set(SCHEMA.names) >= FIGURES
