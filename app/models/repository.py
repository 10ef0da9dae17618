"""SQL of models; `_owned` is the one place where the tenant comes in."""

from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.kit.pagination import Listing
from app.tables.jobs import Job
from app.tables.models import Model


def _owned(project: str) -> Select[Model]:
    return select(Model).where(Model.project_id == project)


def find(session: Session, project: str, id: str) -> Model | None:
    """The project's model of that id."""
    return session.scalars(_owned(project).where(Model.id == id)).one_or_none()


def find_for_use(session: Session, project: str, id: str) -> Model | None:
    """The same, kept from deletion until the transaction ends."""
    query = _owned(project).where(Model.id == id).with_for_update(read=True, key_share=True)
    return session.scalars(query).one_or_none()


def find_for_deletion(session: Session, project: str, id: str) -> Model | None:
    """The same, kept from new uses until the transaction ends."""
    return session.scalars(_owned(project).where(Model.id == id).with_for_update()).one_or_none()


def listing(project: str) -> Listing:
    """The project's models, newest first."""
    return Listing(_owned(project), (Model.created_at, Model.id), newest_first=True)


def some_jobs(session: Session, id: str) -> Sequence[str]:
    """Some jobs of the model, finished or not."""
    return session.scalars(select(Job.id).where(Job.model_id == id).order_by(Job.id).limit(3)).all()


def objects_folder(project: str) -> str:
    """Where the files of a project's models lie in the store; also the name of the lock on taking any away."""
    return f"projects/{project}/models/objects"
