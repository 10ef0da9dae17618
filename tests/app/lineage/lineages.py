"""Jobs that look as a worker leaves them when they are published, for tests of what continues them."""

from typing import Any

import httpx
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.tables.datasets import Dataset
from app.tables.jobs import Job, JobDataset, JobEvaluation
from app.tables.models import Model

PATHS = (
    *("model/config.json", "model/model-00001-of-00003.safetensors", "model/model-00002-of-00003.safetensors"),
    *("model/model-00003-of-00003.safetensors", "report.json"),
    *("state/block-0000.safetensors", "state/block-0001.safetensors"),
)

SPARSITY = {"target": 0.6, "allocation": "owl", "overrides": [{"match": "*.0.*", "skip": True}]}


def publish(session: Session, job: str, **columns: Any) -> None:
    """Give a job a manifest, and the state `succeeded` or what is said instead."""
    session.rollback()
    row = session.get_one(Job, job, populate_existing=True)
    files = [
        {
            "path": path,
            "sha256": f"{n:064d}",
            "bytes": n,
            "key": f"jobs/{row.root}/{job}-1/output/{n:064d}",
            "media_type": "application/octet-stream",
        }
        for n, path in enumerate(PATHS)
    ]
    model = session.get_one(Model, row.model_id)
    read = select(Dataset.id, Dataset.sha256).join(JobDataset, JobDataset.dataset_id == Dataset.id)
    texts = dict(session.execute(read.where(JobDataset.job_id == job)).all())
    provenance = {"job": job, "model": {"id": model.id, "digest": model.digest}, "datasets": texts}
    row.manifest = {"digest": f"{job[-32:]:0>64}", "bytes": 1, "files": files, "provenance": provenance}
    row.result = {"manifest_digest": row.manifest["digest"], "bytes": 1, "files": len(files)}
    row.state, row.finished_at = "succeeded", func.now()
    for name, value in columns.items():
        setattr(row, name, value)
    session.commit()


def evaluate(session: Session, job: str, row: int, **perplexities: float) -> None:
    """Entries of R."""
    measured = {"loss": 1.0, "windows": 2, "tokens": 64, "window_losses": [1.0], "protocol": {"dtype": "float32"}}
    session.add_all(
        JobEvaluation(job_id=job, row=row, domain=domain, perplexity=value, **measured)
        for domain, value in perplexities.items()
    )
    session.commit()


def submit(api: httpx.Client, body: dict[str, Any]) -> str:
    """A new job's id."""
    response = api.post("/v1/jobs", json=body)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def domain(name: str, dataset: str, evaluation: str | None = None) -> dict[str, Any]:
    """A domain of a request."""
    return {"name": name, "dataset": dataset} | ({"evaluation": evaluation} if evaluation else {})


def continued(api: httpx.Client, parent: str, dataset: str, **fields: Any) -> dict[str, Any]:
    """The job that continues `parent`, as it was answered."""
    body = {"continues": parent, "domains": [domain("sales", dataset)], **fields}
    response = api.post("/v1/jobs", json=body)
    assert response.status_code == 201, response.text
    return dict(response.json())
