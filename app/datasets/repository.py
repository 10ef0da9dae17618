"""SQL of datasets; `_owned` is the one place where the tenant comes in."""

from collections.abc import Sequence

from sqlalchemy import Select, delete, exists, func, select
from sqlalchemy.orm import Session

from app.kit.pagination import Listing
from app.tables.datasets import Dataset
from app.tables.jobs import Job, JobDataset
from app.tables.states import TERMINAL

_FINISHED = [state.value for state in TERMINAL]


def _owned(project: str) -> Select[Dataset]:
    return select(Dataset).where(Dataset.project_id == project)


def find(session: Session, project: str, id: str) -> Dataset | None:
    """The project's dataset of that id."""
    return session.scalars(_owned(project).where(Dataset.id == id)).one_or_none()


def find_for_use(session: Session, project: str, ids: Sequence[str]) -> dict[str, Dataset]:
    """Those of the project's datasets, kept from deletion until the transaction ends."""
    query = _owned(project).where(Dataset.id.in_(ids)).order_by(Dataset.id)
    rows = session.scalars(query.with_for_update(read=True, key_share=True))
    return {row.id: row for row in rows}


def find_for_deletion(session: Session, project: str, id: str) -> Dataset | None:
    """The project's dataset of that id, kept from new uses until the transaction ends."""
    return session.scalars(_owned(project).where(Dataset.id == id).with_for_update()).one_or_none()


def listing(project: str) -> Listing:
    """The project's datasets, newest first."""
    return Listing(_owned(project), (Dataset.created_at, Dataset.id), newest_first=True)


def unfinished_jobs(session: Session, id: str) -> Sequence[str]:
    """Some jobs that still need the dataset."""
    query = select(Job.id).join(JobDataset).where(JobDataset.dataset_id == id, Job.state.not_in(_FINISHED))
    return session.scalars(query.order_by(Job.id).limit(3)).all()


def remove(session: Session, dataset: Dataset) -> None:
    """Delete the row and what links it to finished jobs."""
    session.execute(delete(JobDataset).where(JobDataset.dataset_id == dataset.id))
    session.delete(dataset)


def object_key(project: str, sha256: str) -> str:
    """Where a dataset's text lies in the store; the same text is stored once a project."""
    return f"projects/{project}/datasets/{sha256}"


def lock_object(session: Session, key: str) -> None:
    """One at a time for whoever puts a name to an object or takes the last one away."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(key, 0))))


def is_referred(session: Session, key: str) -> bool:
    """Whether any dataset still stands for the object."""
    return bool(session.scalar(select(exists().where(Dataset.object_key == key))))
