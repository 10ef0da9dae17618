"""Rows of a job's history as a worker commits them, without a worker."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.tables.jobs import JobEvaluation, JobMatrix, JobStage
from app.tables.sensitivity import TABLES
from secateur.spec.records.history import Basis

BLOCKS = 3
NAMES = ("down_proj", "q_proj")
WEIGHTS = {"down_proj": 8, "q_proj": 4}
QUANTILES = ("0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99")
PROTOCOL = {"text_sha256": "c" * 64, "sequence_length": 32, "max_windows": 2, "dtype": "float32"}


def matrix_of(block: int, name: str) -> str:
    return f"model.layers.{block}.{name}.weight"


def fill(
    session: Session,
    job: str,
    stage: int,
    *,
    domain: str,
    scale: float = 1.0,
    done: bool = True,
    changed: Mapping[str, Mapping[str, Any]] | None = None,
    bases: Iterable[Basis] = tuple(Basis),
) -> None:
    """A stage of three blocks of two matrices whose sensitivities to the stage's domain add up to scale · 1 …
    scale · 6, and those to all domains so far to ten times scale · 6 … scale · 1; committed.

    changed: by matrix, what its record has instead of the usual. bases: of the sensitivities that are there.
    """
    where = (JobStage.job_id == job, JobStage.stage == stage)
    state = {"state": "done" if done else "running", "blocks": BLOCKS}
    session.execute(update(JobStage).where(*where).values(state))
    for number, (block, name) in enumerate(itertools.product(range(BLOCKS), NAMES), start=1):
        matrix, weights = matrix_of(block, name), WEIGHTS[name]
        place = {"job_id": job, "stage": stage, "block": block, "matrix": matrix}
        record: dict[str, Any] = {
            "rows": 2,
            "columns": weights // 2,
            "weights": weights,
            "zeros": weights // 2,
            "sparsity": 0.5,
            "target": 0.5,
            "pattern": "unstructured",
            "relative_error": 0.1,
            "held_out_error": None,
            "seconds": 0.5,
            "solver": "admm",
            "notes": {"dead_inputs": number},
            "mask_changed": 0.125,
            "mask_overlap": 0.75,
            "revived": 0.0625,
            "newly_pruned": 0.0625,
            "domain_errors": {domain: 0.25, "gone": None},
            "mask_sha256": "a" * 64,
            "weights_sha256": "b" * 64,
        }
        session.add(JobMatrix(**place, **(record | dict((changed or {}).get(matrix, {})))))
        for basis in bases:
            total = scale * (number if basis is Basis.domain else 10 * (7 - number))
            session.add(
                TABLES[basis](
                    **place,
                    domain=domain,
                    mean=total / weights,
                    total=total,
                    quantiles={quantile: total * float(quantile) for quantile in QUANTILES},
                    histogram={"scale": "log10", "edges": [-1.0, 0.0, 1.0], "counts": [number, 0]},
                )
            )
    session.commit()


def evaluate(session: Session, job: str, rows: Mapping[int, Mapping[str, float]], **protocol: Any) -> None:
    """Entries of R by row and domain; committed. protocol: what is not as in PROTOCOL."""
    measured = {"loss": 2.3, "windows": 2, "tokens": 62, "window_losses": [2.3], "protocol": PROTOCOL | protocol}
    for row, entries in rows.items():
        for domain, perplexity in entries.items():
            session.add(JobEvaluation(job_id=job, row=row, domain=domain, perplexity=perplexity, **measured))
    session.commit()
