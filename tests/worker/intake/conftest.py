"""A hub, a tiny model and a way to run an intake on real rows."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.kit.ids import Prefix, new_id
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.auth import Project
from app.tables.datasets import Dataset
from app.tables.models import Model
from app.tables.tasks import TaskKind
from secateur.spec.records.pipe import Inspection
from tests.tiny import make_tiny_llama
from tests.worker.intake.hub_server import Hub, run_hub
from worker.intake.context import Context
from worker.intake.runner import run
from worker.isolation import Limits
from worker.model_files.errors import IntakeError
from worker.pruning import UserError, inspect


@pytest.fixture(scope="session")
def tiny_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, made once; not to be changed."""
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def tiny(tiny_original: Path, tmp_path: Path) -> Path:
    """A tiny model of the test's own, at `tiny` below the model root of the settings."""
    return Path(shutil.copytree(tiny_original, tmp_path / "models" / "tiny", dirs_exist_ok=True))


@pytest.fixture
def hub() -> Iterator[Hub]:
    """An empty hub."""
    with run_hub() as hub:
        yield hub


@pytest.fixture
def context(hub: Hub, tmp_path: Path) -> Context:
    """Surroundings of an intake that needs no database; its settings know the hub."""
    settings = Settings.model_validate(
        {
            "database_url": "postgresql+psycopg://nobody@localhost/none",
            "broker_url": "redis://localhost",
            "secret": "s" * 32,
            "store_url": (tmp_path / "store").as_uri(),
            "hf_endpoint": hub.url,
            "hf_hosts": "localhost",
            "hf_token": "hf_secret",
            "hf_token_repos": "team/*",
            "max_upload_bytes": 100_000,
        }
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Context("prj_0", scratch, ObjectStore(None), settings, lambda: None)  # type: ignore[arg-type]


Intake = Callable[..., Any]


def look_here(
    request: dict[str, Any],
    _workspace: Path,
    _limits: Limits,
    check: Callable[[], None],
    redact: Callable[[str], str],
    _answer: type[Inspection],
) -> Inspection:
    """What the engine's child process would answer, without the seconds that it takes to begin."""
    try:
        return inspect(Path(request["inspect"]), check)
    except UserError as error:
        raise IntakeError(error.code, redact(error.message), error.field) from None


@pytest.fixture
def intake(whole_intake: Intake, monkeypatch: pytest.MonkeyPatch) -> Intake:
    """`whole_intake` with the engine in this process."""
    monkeypatch.setattr("worker.intake.fit.ask_engine", look_here)
    return whole_intake


@pytest.fixture
def whole_intake(session: Session, settings: Settings, hub: Hub) -> Intake:
    """Make a pending model or dataset of a new project, run its task, return the row."""

    def act(
        row: Model | Dataset,
        check: Callable[[], None] = lambda: None,
        before: Callable[[], None] = lambda: None,
        **more: Any,
    ) -> Model | Dataset:
        project = Project(id=new_id(Prefix.project), name=new_id(Prefix.project))
        session.add(project)
        session.flush()
        row.id = new_id(Prefix.model if isinstance(row, Model) else Prefix.dataset)
        row.project_id, row.name, row.state = project.id, "subject", "pending"
        session.add(row)
        session.commit()
        before()
        kind = TaskKind.model_intake
        if isinstance(row, Dataset):
            kind = TaskKind.dataset_intake if row.upload is not None else TaskKind.dataset_fetch
        mine = settings.model_copy(update={"hf_endpoint": hub.url, "hf_hosts": ("localhost",), **more})
        run(kind, row.id, lambda session: None, check, mine)
        session.refresh(row)
        return row

    return act
