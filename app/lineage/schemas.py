"""Lineages as callers see them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.lineage import stages as lineage
from app.tables.jobs import Job
from app.tables.states import State


class LineageStageRead(BaseModel):
    """One domain's turn in a lineage."""

    lineage_stage: int
    stage: int = Field(description="In its job.")
    domain: str


class LineageJobRead(BaseModel):
    """One job of a lineage's tree."""

    id: str
    continues: str | None
    retry_of: str | None
    state: State
    domains: list[str] = Field(description="Its own, in the order of their stages.")
    first_stage: int = Field(description="How many stages the lineage has before them.")
    manifest_digest: str | None = Field(description="Of its files, once it has published them.")
    created_at: datetime

    @classmethod
    def of(cls, job: Job) -> "LineageJobRead":
        """From its row."""
        return cls(
            id=job.id,
            continues=job.continues,
            retry_of=job.retry_of,
            state=State(job.state),
            domains=[domain["name"] for domain in job.spec["domains"]],
            first_stage=job.first_stage,
            manifest_digest=lineage.manifest_digest(job),
            created_at=job.created_at,
        )


class PathJobRead(LineageJobRead):
    """One job on the way to the one asked for, with its stages."""

    stages: list[LineageStageRead]


class LineageRead(BaseModel):
    """A job's place among the jobs that continue one another."""

    model_config = ConfigDict(title="Lineage")

    object: Literal["lineage"] = "lineage"
    job: str
    root: str = Field(description="The lineage's first job.")
    path: list[PathJobRead] = Field(description="From the first job to this one.")
    jobs: list[LineageJobRead] = Field(
        description=f"All branches, oldest first, up to {lineage.SHOWN}; `GET /v1/jobs?lineage=` has the rest."
    )
    total: int = Field(description="How many jobs the lineage has.")

    @classmethod
    def of(cls, job: Job, path: Sequence[Job], members: Sequence[Job], total: int) -> "LineageRead":
        """From their rows."""
        stages = lineage.stages_of(path)
        ways = [
            PathJobRead(
                **vars(LineageJobRead.of(each)),
                stages=[LineageStageRead.model_validate(vars(stage)) for stage in stages if stage.job == each.id],
            )
            for each in path
        ]
        found = [LineageJobRead.of(each) for each in members]
        return cls(job=job.id, root=job.lineage, path=ways, jobs=found, total=total)
