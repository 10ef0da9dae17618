"""Rows and objects that a job needs, without the API: what tests of the delivery queue and run."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.jobs import submission
from app.kit.ids import Prefix, new_id
from app.lineage.continuation import complete
from app.storage import ObjectStore
from app.tables.auth import Project
from app.tables.datasets import Dataset
from app.tables.jobs import Job, JobDataset, JobStage
from app.tables.models import Model
from app.tables.states import State
from secateur.digests import file_sha256, tree_digest
from secateur.spec.job import JobContinue, JobCreate, canonical_digest

SPEC: dict[str, Any] = {
    "method": {"name": "copal", "weight_update": "admm"},
    "sparsity": {"target": 0.5},
    "evaluation": {"sequence_length": 32, "max_windows": 2},
}
CALIBRATION = {"samples": 4, "sequence_length": 32, "seed": 0}


def make_project(session: Session, name: str = "ours") -> str:
    """A project's id."""
    project = Project(id=new_id(Prefix.project), name=name)
    session.add(project)
    session.flush()
    return project.id


def make_model(
    session: Session,
    project: str,
    folder: Path | None = None,
    store: ObjectStore | None = None,
    state: str = "ready",
) -> str:
    """A model's id; with a folder its files are in the store."""
    files = []
    for path in sorted(folder.rglob("*")) if folder is not None else []:
        if path.is_file():
            digest = file_sha256(path)
            key = f"models/tests/objects/{digest}"
            assert store is not None
            store.put_file(key, path)
            name = path.relative_to(folder).as_posix()  # type: ignore[arg-type]
            files.append({"path": name, "sha256": digest, "bytes": path.stat().st_size, "key": key})
    model = Model(
        id=new_id(Prefix.model),
        project_id=project,
        name="tiny",
        state=state,
        source={"type": "folder", "path": "tiny"},
        files=files,
        digest=tree_digest((file["path"], file["sha256"]) for file in files),
    )
    session.add(model)
    session.flush()
    return model.id


def make_dataset(
    session: Session,
    project: str,
    text: str = "",
    store: ObjectStore | None = None,
    state: str = "ready",
    format: str = "txt",
) -> str:
    """A text dataset's id; with a store its text is there."""
    import hashlib

    digest = hashlib.sha256(text.encode()).hexdigest()
    key = f"datasets/tests/objects/{digest}"
    if store is not None:
        store.put_bytes(key, text.encode())
    dataset = Dataset(
        id=new_id(Prefix.dataset),
        project_id=project,
        name="text",
        state=state,
        source="upload",
        format=format,
        text_field="question" if format == "jsonl" else None,
        bytes=len(text.encode()),
        sha256=digest,
        object_key=key,
    )
    session.add(dataset)
    session.flush()
    return dataset.id


@dataclass
class JobMaker:
    """Queues jobs of one project over one model and one pair of texts a domain."""

    session: Session
    project: str
    model: str
    datasets: list[str] = field(default_factory=list)
    """Calibration text of each domain."""
    evaluation: str | None = None

    def make(self, priority: int = 0, **spec: Any) -> str:
        """A queued job's id; committed."""
        body = {
            **SPEC,
            **spec,
            "model": self.model,
            "domains": [
                {"name": f"d{index}", "dataset": id, "calibration": CALIBRATION, "evaluation": self.evaluation}
                for index, id in enumerate(self.datasets)
            ],
        }
        create = JobCreate.model_validate_json(json.dumps(body))
        resolved = create.resolved()
        job = Job(
            id=new_id(Prefix.job),
            project_id=self.project,
            model_id=self.model,
            state=State.queued,
            method=resolved["method"]["name"],
            spec=resolved,
            spec_digest=canonical_digest(resolved),
            labels={},
            priority=priority,
        )
        self.session.add(job)
        self.session.flush()
        self.session.add_all(JobDataset(job_id=job.id, dataset_id=id) for id in create.datasets())
        self.session.add_all(
            JobStage(job_id=job.id, stage=stage, domain=name, state="pending")
            for stage, name in enumerate(create.stage_names)
        )
        self.session.commit()
        return job.id

    def go_on(self, parent: str, *datasets: str, **spec: Any) -> str:
        """Id of a queued job that continues that one with these texts; committed."""
        first = self.session.get_one(Job, parent, populate_existing=True)
        number = first.first_stage + len(first.spec["domains"])
        domains = [
            {"name": f"d{number + i}", "dataset": id, "calibration": CALIBRATION, "evaluation": self.evaluation}
            for i, id in enumerate(datasets)
        ]
        body = JobContinue.model_validate({"continues": parent, "domains": domains, **spec})
        made = submission.make(self.session, self.project, complete(self.session, self.project, body))
        self.session.commit()
        return str(made.job["id"])


def make_jobs(session: Session, domains: int = 1, name: str = "ours") -> JobMaker:
    """A maker whose model and texts are ready but hold nothing."""
    project = make_project(session, name)
    model = make_model(session, project)
    datasets = [make_dataset(session, project, str(index)) for index in range(domains)]
    maker = JobMaker(session, project, model, datasets)
    session.commit()
    return maker
