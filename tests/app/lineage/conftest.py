"""Fixtures of the tests of jobs."""

import httpx
import pytest
from sqlalchemy.orm import Session

from tests.app.conftest import Inputs
from tests.app.lineage.lineages import SPARSITY, evaluate, publish, submit
from tests.jobs import make_dataset


@pytest.fixture
def parent(api: httpx.Client, inputs: Inputs, session: Session) -> str:
    """A job over law and code (of which law is evaluated) that has succeeded."""
    body = inputs.body(
        method={"name": "copal", "weight_update": "admm"},
        sparsity=SPARSITY,
        evaluation={"sequence_length": 64, "max_windows": 2},
    )
    job = submit(api, body)
    for row in range(3):
        evaluate(session, job, row, law=10.0 + row)
    publish(session, job)
    return job


@pytest.fixture
def third(session: Session, project: str) -> str:
    """One more text of ours."""
    id = make_dataset(session, project, "three")
    session.commit()
    return id
