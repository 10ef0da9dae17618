"""Rules of projects: an operator manages all of them, everybody else knows only his own."""

from sqlalchemy import func
from sqlalchemy.orm import Session

from app.auth.repository import suspend_keys
from app.auth.scopes import Scope
from app.auth.service import Principal
from app.kit.ids import Prefix, new_id
from app.kit.problems import FieldError, Invalid, NotFound, Problem, exists
from app.models.references import may_exist
from app.projects import repository
from app.projects.schemas import ProjectCreate, ProjectPatch
from app.quotas import service as quotas
from app.settings import Settings
from app.tables.auth import Project


class ProjectNotFound(NotFound):
    code, title = "project_not_found", "There is no such project"


class ProjectExists(Problem):
    status, code, title = 409, "project_exists", "Another project has this name"


class OwnProject(Problem):
    status, code, title = 409, "own_project", "The project is the key's own"


class ProjectNotEmpty(Problem):
    status, code, title = 409, "project_not_empty", "The project has jobs, models or datasets"


class RootRefused(Invalid):
    code, title = "root_refused", "A model root cannot be given to the project"


def reach(session: Session, principal: Principal, id: str, *, lock: bool = False) -> Project:
    """The project, when the caller may know of it: an operator, or a key of its own. Raises ProjectNotFound.

    lock: against other changes of it and its keys, until the transaction ends.
    """
    own = principal.project == id or principal.may(Scope.admin)
    find = repository.find_for_change if lock else repository.find
    return exists(find(session, id) if own else None, ProjectNotFound)


def create(session: Session, body: ProjectCreate, settings: Settings) -> Project:
    """An empty project without keys. Raises ProjectExists, RootRefused."""
    _check_roots(body.model_roots, settings)
    _check_name(session, body.name)
    project = Project(id=new_id(Prefix.project), name=body.name, model_roots=list(body.model_roots))
    session.add(project)
    session.flush()
    session.refresh(project)
    return project


def change(session: Session, principal: Principal, id: str, body: ProjectPatch, settings: Settings) -> Project:
    """Change what is named. Raises ProjectNotFound, ProjectExists, RootRefused, OwnProject."""
    project = exists(repository.find_for_change(session, id), ProjectNotFound)
    if body.disabled and id == principal.project:
        raise OwnProject("Its keys would stop to work, this one with them. Ask with a key of another project.")
    if body.name is not None and body.name != project.name:
        _check_name(session, body.name)
        project.name = body.name
    if body.model_roots is not None:
        _check_roots(body.model_roots, settings)
        project.model_roots = list(body.model_roots)
    if body.disabled is not None and body.disabled != (project.disabled_at is not None):
        project.disabled_at = func.now() if body.disabled else None
        suspend_keys(session, id, body.disabled)
    if body.share is not None or body.quotas:
        quotas.change(session, id, body.share, body.quotas or {})
    session.flush()
    session.refresh(project)
    return project


def delete(session: Session, id: str) -> None:
    """Delete an empty project with its keys. Raises ProjectNotFound, ProjectNotEmpty."""
    project = exists(repository.find_for_deletion(session, id), ProjectNotFound)
    contents = repository.contents(session, id)
    if contents:
        raise ProjectNotEmpty(f"It still has {', '.join(contents)}. Delete them first, or disable the project.")
    session.delete(project)
    session.flush()


def _check_name(session: Session, name: str) -> None:
    session.execute(func.pg_advisory_xact_lock(func.hashtextextended(f"project {name}", 0)).select())
    if repository.is_taken(session, name):
        raise ProjectExists


def _check_roots(roots: list[str], settings: Settings) -> None:
    if roots and settings.project_roots is None:
        raise RootRefused(errors=[FieldError("this service has no `project_roots`", pointer="/model_roots")])
    missing = [
        FieldError("there is no such folder below the service's `project_roots`", pointer=f"/model_roots/{index}")
        for index, root in enumerate(roots)
        if settings.project_roots is not None and not may_exist([settings.project_roots], root)
    ]
    if missing:
        raise RootRefused(errors=missing)
