"""Rules of models: registered by reference, taken in by the CPU queue, kept while any job refers to them."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.orm import Session

from app.auth.repository import own_roots
from app.kit.ids import Prefix, new_id
from app.kit.problems import FieldError, Invalid, NotFound, Problem, exists
from app.models import repository
from app.models.references import may_exist, roots_of
from app.models.schemas import FolderSource, GgufSource, ModelCreate, UploadSource
from app.settings import Settings
from app.tables.models import Model, ModelState
from app.tables.tasks import TaskKind
from app.tasks.service import drop, submit


class ModelNotFound(NotFound):
    code, title = "model_not_found", "There is no such model"


class ModelInUse(Problem):
    status, code, title = 409, "model_in_use", "A job refers to the model"


class SourceRefused(Invalid):
    code, title = "source_refused", "The model's source cannot be used"


def register(session: Session, project: str, body: ModelCreate, settings: Settings) -> Model:
    """A pending model and the task that takes it in; one that is sent by its owner waits for its files first.

    Raises SourceRefused.
    """
    uploaded = isinstance(body.source, UploadSource)
    if isinstance(body.source, FolderSource | GgufSource):
        _check_path(body.source.path, roots_of(settings, own_roots(session, project)))
    model = Model(
        id=new_id(Prefix.model),
        project_id=project,
        name=body.name,
        state=ModelState.uploading if uploaded else ModelState.pending,
        source=body.source.model_dump(),
    )
    session.add(model)
    session.flush()
    if not uploaded:
        submit(session, project, TaskKind.model_intake, model.id)
    return model


def read(session: Session, project: str, id: str) -> Model:
    """Raises ModelNotFound, also for another project's."""
    return exists(repository.find(session, project, id), ModelNotFound)


def delete(session: Session, project: str, id: str) -> None:
    """Delete a model; its objects are left to garbage collection, because models share files.

    Raises ModelNotFound, ModelInUse.
    """
    model = exists(repository.find_for_deletion(session, project, id), ModelNotFound)
    jobs = repository.some_jobs(session, id)
    if jobs:
        raise ModelInUse(f"Jobs refer to it, among them {', '.join(jobs)}.")
    session.delete(model)
    drop(session, id)


def _check_path(path: str, roots: Sequence[Path]) -> None:
    if not roots:
        detail = "this service has no folder that models may be registered from"
    elif not may_exist(roots, path):
        detail = "no model root has this path"
    else:
        return
    raise SourceRefused(f"source.path: {detail}", errors=[FieldError(detail, pointer="/source/path")])
