"""What a job says of itself is listed in its records: tables, answers and exports agree with their fields."""

import pytest
from pydantic import BaseModel

from app.db.base import Base
from app.history.parquet import SCHEMA
from app.history.sensitivity_schemas import SensitivityRead
from app.jobs.schemas import MatrixRead, ProgressRead, StageRead
from app.tables.jobs import JobEvaluation, JobMatrix, JobProgress, JobStage
from app.tables.sensitivity import JobDomainSensitivity, JobSensitivity
from secateur.spec.records.history import MatrixRecord, Position, Record, SensitivitySummary, StageFigures
from secateur.spec.records.pipe import Evaluation

STORED: dict[type[Base], type[Record]] = {
    JobMatrix: MatrixRecord,
    JobStage: StageFigures,
    JobEvaluation: Evaluation,
    JobProgress: Position,
    JobSensitivity: SensitivitySummary,
    JobDomainSensitivity: SensitivitySummary,
}
UNSTORED = {"type", "basis"}
"""Which record it is, and which table it is in."""
ANSWERED: dict[type[BaseModel], type[Record]] = {
    MatrixRead: MatrixRecord,
    StageRead: StageFigures,
    ProgressRead: Position,
    SensitivityRead: SensitivitySummary,
}


@pytest.mark.parametrize("table", STORED, ids=lambda table: table.__tablename__)
def test_every_figure_has_a_column(table: type[Base]) -> None:
    assert STORED[table].model_fields.keys() - UNSTORED <= set(table.__table__.columns.keys())


@pytest.mark.parametrize("answer", ANSWERED, ids=lambda answer: answer.__name__)
def test_every_figure_is_answered(answer: type[BaseModel]) -> None:
    """And is always there, so that OpenAPI has it as required."""
    fields = set(ANSWERED[answer].model_fields)
    assert fields <= set(answer.model_json_schema(mode="serialization")["required"])


def test_every_figure_is_exported() -> None:
    assert set(SCHEMA.names) >= set(MatrixRecord.model_fields)
    assert {*SensitivitySummary.model_fields} - {"matrix", "basis", "quantiles", "histogram"} == {"mean", "total"}
    assert {"sensitivity_mean", "sensitivity_total", "sensitivity_q0.5", "histogram_counts"} <= set(SCHEMA.names)
