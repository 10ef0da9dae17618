"""Rules of datasets: immutable, content-addressed, deletable once no unfinished job needs them."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from app.backend import Backend
from app.datasets import repository
from app.datasets.schemas import DatasetCreate
from app.datasets.text import TextScanner
from app.kit.ids import Prefix, new_id
from app.kit.problems import NotFound, Problem, exists
from app.quotas.catalogue import Quota
from app.quotas.service import reserve
from app.tables.datasets import Dataset, IntakeState
from app.tables.tasks import TaskKind
from app.tasks.service import drop, submit


class DatasetNotFound(NotFound):
    code, title = "dataset_not_found", "There is no such dataset"


class DatasetInUse(Problem):
    status, code, title = 409, "dataset_in_use", "An unfinished job needs the dataset"


@dataclass(frozen=True)
class Upload:
    """A complete uploaded text in a local file."""

    name: str
    format: str
    text_field: str | None
    path: Path
    scan: TextScanner


def store_upload(backend: Backend, project: str, upload: Upload) -> None:
    """Bring the text into the store, before the transaction that refers to it."""
    backend.store.put_file(repository.object_key(project, upload.scan.sha256), upload.path)


def add_upload(session: Session, backend: Backend, project: str, upload: Upload) -> Dataset:
    """The dataset of a text that was stored."""
    key = repository.object_key(project, upload.scan.sha256)
    repository.lock_object(session, key)
    if backend.store.head(key) is None:
        # The last dataset with this text was deleted in between.
        backend.store.put_file(key, upload.path)
    reserve(session, project, Quota.stored_bytes, size=upload.scan.bytes)
    dataset = Dataset(
        id=new_id(Prefix.dataset),
        project_id=project,
        name=upload.name,
        state=IntakeState.ready,
        source="upload",
        format=upload.format,
        text_field=upload.text_field,
        bytes=upload.scan.bytes,
        documents=upload.scan.documents,
        characters=upload.scan.characters,
        sha256=upload.scan.sha256,
        object_key=key,
    )
    session.add(dataset)
    session.flush()
    return dataset


def request_from_hub(session: Session, project: str, body: DatasetCreate) -> Dataset:
    """A pending dataset and the task that fetches it."""
    dataset = Dataset(
        id=new_id(Prefix.dataset),
        project_id=project,
        name=body.name,
        state=IntakeState.pending,
        source="hub",
        format="jsonl",
        text_field=body.hub.text_field,
        hub=body.hub.model_dump(),
    )
    session.add(dataset)
    session.flush()
    submit(session, project, TaskKind.dataset_fetch, dataset.id)
    return dataset


def read(session: Session, project: str, id: str) -> Dataset:
    """Raises DatasetNotFound, also for another project's."""
    return exists(repository.find(session, project, id), DatasetNotFound)


def delete(session: Session, project: str, id: str) -> str | None:
    """Delete a dataset; the key of its text, which `drop_text` takes away after the commit.

    Raises DatasetNotFound, DatasetInUse.
    """
    dataset = exists(repository.find_for_deletion(session, project, id), DatasetNotFound)
    jobs = repository.unfinished_jobs(session, id)
    if jobs:
        raise DatasetInUse(f"Wait for or cancel: {', '.join(jobs)}.")
    key = dataset.object_key
    repository.remove(session, dataset)
    drop(session, id)
    return key


def drop_text(backend: Backend, key: str) -> None:
    """Unless another dataset has the same. Under the key's lock: no dataset ever stands without its text."""
    with backend.sessions.begin() as session:
        repository.lock_object(session, key)
        if not repository.is_referred(session, key):
            backend.store.delete([key])
