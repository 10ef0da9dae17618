"""SQL of jobs as callers read them; `_owned` is the one place where the tenant comes in."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    FromClause,
    Select,
    String,
    and_,
    any_,
    bindparam,
    func,
    literal,
    or_,
    select,
    union_all,
)
from sqlalchemy.orm import Session, defer

from app.jobs.documents import COLUMNS, PROGRESS, Snapshot, job_columns
from app.kit.globs import matches
from app.kit.pagination import Listing
from app.kit.waiting import Probe
from app.lineage import stages as lineage
from app.lineage.required_statistics import MatrixMethod, overriding
from app.tables.datasets import Dataset
from app.tables.jobs import (
    Job,
    JobAttempt,
    JobBlock,
    JobEvaluation,
    JobEvent,
    JobLog,
    JobMatrix,
    JobProgress,
    JobStage,
    JobTask,
)
from app.tables.models import Model
from secateur.spec.sparsity import further_name

Found = tuple[Job, JobProgress | None]
Query = Select[*tuple[Any, ...]]


@dataclass(frozen=True)
class Filter:
    """What a list of jobs is narrowed to; the parts are joined by `and`, states by `or`."""

    states: Sequence[str] = ()
    method: str | None = None
    model: str | None = None
    labels: Sequence[tuple[str, str]] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    continues: str | None = None
    lineage: str | None = None


def _owned(project: str) -> Select[Job, JobProgress]:
    query = select(Job, JobProgress).outerjoin(JobProgress, JobProgress.job_id == Job.id)
    # A manifest can be large, and only the artifact's own calls read it.
    return query.where(Job.project_id == project).options(defer(Job.manifest))


def find(session: Session, project: str, id: str) -> Found | None:
    """The project's job of that id, with its progress."""
    row = session.execute(_owned(project).where(Job.id == id)).one_or_none()
    return (row[0], row[1]) if row is not None else None


def lock(session: Session, project: str, id: str) -> Found | None:
    """The same, its row locked until the transaction ends; rows that refer to it may still be written meanwhile.

    Whoever waited for somebody who deleted it finds nothing.
    """
    query = _owned(project).where(Job.id == id).with_for_update(of=Job, key_share=True)
    row = session.execute(query.execution_options(populate_existing=True)).one_or_none()
    return (row[0], row[1]) if row is not None else None


def snapshot(session: Session, id: str) -> Snapshot:
    """A job that is there, as its answer shows it; what the session has changed is written first."""
    session.flush()
    return Snapshot.of(session.execute(_SHOWN.where(Job.id == id)).one())


_SHOWN: Final = select(*COLUMNS).outerjoin(JobProgress, JobProgress.job_id == Job.id)


def _any_of(name: str) -> Any:
    """Of a list that is given by that name."""
    return any_(bindparam(name, type_=ARRAY(String)))


def _kept(kind: str, table: Any, ids: Any) -> Query:
    """Of the project's rows with those ids; they are kept from deletion until the transaction ends."""
    rows = select(literal(kind).label("kind"), table.c.id, table.c.state).order_by(table.c.id)
    mine = rows.where(table.c.project_id == bindparam("project"), ids)
    return select(mine.with_for_update(read=True, key_share=True).cte(kind))


_INPUTS: Final = union_all(
    _kept("model", Model.__table__, Model.__table__.c.id == bindparam("model")),
    _kept("dataset", Dataset.__table__, Dataset.__table__.c.id == _any_of("datasets")),
)


def input_states(
    session: Session, project: str, model: str, datasets: Sequence[str]
) -> dict[tuple[str, str], str]:
    """By kind and id, the state of the project's model and datasets, which are kept from deletion."""
    given = {"project": project, "model": model, "datasets": list(datasets)}
    return {(kind, id): state for kind, id, state in session.execute(_INPUTS, given)}


PROBE: Final = Probe(
    "jobs",
    select(Job.id, Job.version, JobProgress.version, Job.state, Job.last_event)
    .outerjoin(JobProgress, JobProgress.job_id == Job.id)
    .where(Job.id == _any_of("ids")),
)
"""A job's mark: its version, its progress's, its state, the number of its newest event."""


def listing(project: str, filter: Filter) -> Listing:
    """The project's jobs, newest first: of each what its snapshot is made of."""
    jobs = Job.__table__
    return Listing(
        _narrowed(select(jobs).where(jobs.c.project_id == bindparam("project")), filter),
        (jobs.c.created_at, jobs.c.id),
        newest_first=True,
        complete=_whole,
        name="jobs" if filter == Filter() else None,
        given={"project": project},
    )


def _whole(page: FromClause) -> Query:
    """Texts are made and progress is looked up for a page's jobs alone, however the planner finds these.

    By a list of ids: neighbours lie on the same leaves, and one descent of the index finds them all.
    """
    ids = func.array(select(page.c.id).scalar_subquery(), type_=ARRAY(String))
    found = select(*PROGRESS).where(JobProgress.__table__.c.job_id == any_(ids))
    progress = found.add_columns(JobProgress.__table__.c.job_id).cte("progress")
    columns = [progress.c[each.name] for each in PROGRESS]
    query = select(*job_columns(page.c), *columns)
    return query.outerjoin_from(page, progress, progress.c.job_id == page.c.id)


def _narrowed(query: Query, filter: Filter) -> Query:
    wanted = ((Job.method, filter.method), (Job.model_id, filter.model), (Job.continues, filter.continues))
    query = query.where(*(column == value for column, value in wanted if value is not None))
    if filter.states:
        query = query.where(Job.state.in_(filter.states))
    for key, value in filter.labels:
        query = query.where(Job.labels.contains({key: value}))
    if filter.created_after is not None:
        query = query.where(Job.created_at > filter.created_after)
    if filter.created_before is not None:
        query = query.where(Job.created_at < filter.created_before)
    if filter.lineage is not None:
        query = query.where(lineage.is_of(filter.lineage))
    return query


def events(job: str, after: int) -> Listing:
    """Events numbered above `after`, in order."""
    return Listing(select(JobEvent).where(JobEvent.job_id == job, JobEvent.seq > after), (JobEvent.seq,))


def logs(job: str, after: int = 0, *, newest_first: bool = False) -> Listing:
    """Lines numbered above `after`."""
    query = select(JobLog).where(JobLog.job_id == job, JobLog.seq > after)
    return Listing(query, (JobLog.seq,), newest_first)


def attempts(session: Session, job: str) -> Sequence[JobAttempt]:
    """All attempts, in order."""
    return session.scalars(select(JobAttempt).where(JobAttempt.job_id == job).order_by(JobAttempt.number)).all()


def stages(session: Session, job: str) -> Sequence[tuple[JobStage, int]]:
    """All stages in order, each with the number of its committed blocks."""
    same = and_(JobBlock.job_id == JobStage.job_id, JobBlock.stage == JobStage.stage)
    done = select(func.count()).select_from(JobBlock).where(same).correlate(JobStage).scalar_subquery()
    rows = session.execute(select(JobStage, done).where(JobStage.job_id == job).order_by(JobStage.stage))
    return [(row[0], row[1]) for row in rows]


def evaluations(session: Session, job: str) -> Sequence[JobEvaluation]:
    """All entries of R, without the losses of single windows, of which there can be a hundred thousand each."""
    query = select(JobEvaluation).where(JobEvaluation.job_id == job).options(defer(JobEvaluation.window_losses))
    return session.scalars(query.order_by(JobEvaluation.row, JobEvaluation.domain)).all()


def task_scores(session: Session, job: str) -> Sequence[dict[str, Any]]:
    """What was reached in the job's tasks, each by the dense model first."""
    query = select(JobTask.scores).where(JobTask.job_id == job).order_by(JobTask.task, JobTask.model)
    return [scores for scores in session.scalars(query) if scores is not None]


def matrix_methods(session: Session, job: Job) -> list[MatrixMethod]:
    """What the records of a finished job's last stage say of where its overrides' methods were used."""
    deciding = JobMatrix.notes["overrides"]
    query = select(JobMatrix.block, JobMatrix.columns, deciding).distinct()
    query = query.where(JobMatrix.job_id == job.id, JobMatrix.stage == len(job.spec["domains"]) - 1)
    rows = session.execute(query.order_by(JobMatrix.block, JobMatrix.columns))
    return [MatrixMethod(block, columns, overriding(job.spec, said or ())) for block, columns, said in rows]


@dataclass(frozen=True)
class Part:
    """One job's stages in a history; the first of them is the lineage's stage `first_stage`."""

    job: str
    first_stage: int


@dataclass(frozen=True)
class HistoryFilter:
    """What the history of matrices is narrowed to."""

    stage: int | None = None
    """In the lineage where that is asked for, else the job's own."""
    domain: str | None = None
    block: int | None = None
    matrix: str | None = None
    """A name or a glob."""
    lineage: bool = False

    def narrowed(self, query: Query, number: ColumnElement[int], place: Any, domain: Any) -> Query:
        """The query of what this is about. number: the stage's in the lineage. place: has `stage`, `block`,
        `matrix`."""
        stage = number if self.lineage else place.stage
        wanted = ((stage, self.stage), (domain, self.domain), (place.block, self.block))
        query = query.where(*(column == value for column, value in wanted if value is not None))
        return query if self.matrix is None else query.where(matches(place.matrix, self.matrix))


def belongs(parts: Sequence[Part], job: Any, stage: Any) -> ColumnElement[bool]:
    """Whether a job's stage is part of a history: a domain's, or one of the last job's. Further targets of the
    jobs before it are by their numbers what the next one's domains are. job, stage: columns of its id and name."""
    return or_(job == parts[-1].job, stage.not_like(further_name("%")))


def matrices(parts: Sequence[Part], filter: HistoryFilter) -> Listing:
    """(record, domain, stage in the lineage) of each matrix, by (stage in the lineage, block, matrix)."""
    same = and_(JobStage.job_id == JobMatrix.job_id, JobStage.stage == JobMatrix.stage)
    number: ColumnElement[int] = (Job.first_stage + JobMatrix.stage).label("lineage_stage")
    query = select(JobMatrix, JobStage.domain, number).join(JobStage, same).join(Job, Job.id == JobMatrix.job_id)
    query = query.where(JobMatrix.job_id.in_([part.job for part in parts]))
    query = query.where(belongs(parts, JobMatrix.job_id, JobStage.domain))
    query = filter.narrowed(query, number, JobMatrix, JobStage.domain)
    return Listing(query, (number, JobMatrix.block, JobMatrix.matrix))
