"""SQL of models; `_owned` is the one place where the tenant comes in."""

from collections.abc import Collection, Sequence

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.orm import Session

from app.db.clock import from_now
from app.kit.pagination import Listing
from app.tables.jobs import Job
from app.tables.models import Model, ModelPart, ModelState


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


def find_for_upload(session: Session, project: str, id: str) -> Model | None:
    """The project's model of that id; no other call changes its parts or its state meanwhile."""
    query = _owned(project).where(Model.id == id).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def parts(session: Session, id: str) -> Sequence[ModelPart]:
    """What has arrived of a model's files, by file, in order."""
    query = select(ModelPart).where(ModelPart.model_id == id).order_by(ModelPart.path, ModelPart.start)
    return session.scalars(query).all()


def drop_parts(session: Session, id: str) -> list[str]:
    """Forget them; the keys of their objects, which may be deleted after the commit."""
    gone = delete(ModelPart).where(ModelPart.model_id == id).returning(ModelPart.object_key)
    return list(session.scalars(gone).all())


def part_keys(session: Session, keys: Sequence[str]) -> set[str]:
    """Those of the keys that a part stands for."""
    return set(session.scalars(select(ModelPart.object_key).where(ModelPart.object_key.in_(keys))).all())


def expire_uploads(session: Session, hours: float) -> int:
    """Fail the models of which nothing has come for so long; how many."""
    last = select(func.max(ModelPart.created_at)).where(ModelPart.model_id == Model.id).scalar_subquery()
    old = func.greatest(Model.updated_at, func.coalesce(last, Model.updated_at)) < from_now(-hours * 3600)
    error = {
        "code": "upload_expired",
        "message": f"Nothing of the upload has come for {hours:g} hours. Upload the model anew.",
        "field": "/source",
    }
    failed = update(Model).where(Model.state == ModelState.uploading, old)
    ids = session.scalars(failed.values(state=ModelState.failed, error=error).returning(Model.id)).all()
    session.execute(delete(ModelPart).where(ModelPart.model_id.in_(ids)))
    return len(ids)


def upload_of(key: str) -> str:
    """Id of the model that an object below the uploads' folder was sent for."""
    return key.split("/")[3]


def uploads_folder(project: str) -> str:
    """Where parts of a project's uploads lie in the store."""
    return f"projects/{project}/uploads"


def some_jobs(session: Session, id: str) -> Sequence[str]:
    """Some jobs of the model, finished or not."""
    return session.scalars(select(Job.id).where(Job.model_id == id).order_by(Job.id).limit(3)).all()


def objects_folder(project: str) -> str:
    """Where the files of a project's models lie in the store; also the name of the lock on taking any away."""
    return f"projects/{project}/models/objects"


def uploading(session: Session, ids: Collection[str]) -> set[str]:
    """Those of the models that still take files."""
    query = select(Model.id).where(Model.id.in_(ids), Model.state == ModelState.uploading)
    return set(session.scalars(query).all())
