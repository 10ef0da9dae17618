"""Rules of datasets: immutable, content-addressed, deletable once no unfinished job needs them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.backend import Backend
from app.datasets import repository
from app.datasets.schemas import Compression, DatasetCreate, FileFormat
from app.datasets.text import TextScanner
from app.datasets.upload import FileScanner
from app.kit.ids import Prefix, new_id
from app.kit.problems import NotFound, Problem, exists
from app.quotas.catalogue import Quota
from app.quotas.service import reserve
from app.storage import ObjectStore
from app.tables.datasets import Dataset, IntakeState
from app.tables.tasks import TaskKind
from app.tasks.service import drop, submit


class DatasetNotFound(NotFound):
    code, title = "dataset_not_found", "There is no such dataset"


class DatasetInUse(Problem):
    status, code, title = 409, "dataset_in_use", "An unfinished job needs the dataset"


@dataclass(frozen=True)
class Upload:
    """What a caller says of a file."""

    name: str
    format: FileFormat
    compression: Compression
    text_field: str | None

    def scanner(self) -> TextScanner | FileScanner:
        """What reads it as it comes. A text that is not packed is judged at once, everything else by a task."""
        if self.compression is Compression.none and self.format in (FileFormat.txt, FileFormat.jsonl):
            return TextScanner(self.format, self.text_field)
        return FileScanner(self.format, self.compression)


@dataclass(frozen=True)
class Sent:
    """A file that has arrived, whole."""

    upload: Upload
    scan: TextScanner | FileScanner
    path: Path


def store_upload(backend: Backend, project: str, sent: Sent) -> None:
    """Bring the file into the store, before the transaction that refers to it."""
    backend.store.put_file(repository.object_key(project, sent.scan.sha256), sent.path)


def add_upload(session: Session, backend: Backend, project: str, sent: Sent) -> Dataset:
    """The dataset of a file that was stored: ready, or pending with the task that reads it."""
    upload, scan = sent.upload, sent.scan
    key = repository.object_key(project, scan.sha256)
    repository.lock_object(session, key)
    if backend.store.head(key) is None:
        # The last dataset with this file was deleted in between.
        backend.store.put_file(key, sent.path)
    reserve(session, project, Quota.stored_bytes, size=scan.bytes)
    dataset = Dataset(
        id=new_id(Prefix.dataset),
        project_id=project,
        name=upload.name,
        source="upload",
        upload={
            "format": upload.format,
            "compression": upload.compression,
            "text_field": upload.text_field,
            "bytes": scan.bytes,
            "sha256": scan.sha256,
        },
        object_key=key,
        **_facts(upload, scan),
    )
    session.add(dataset)
    session.flush()
    if dataset.state == IntakeState.pending:
        submit(session, project, TaskKind.dataset_intake, dataset.id)
    return dataset


def _facts(upload: Upload, scan: TextScanner | FileScanner) -> dict[str, Any]:
    """What is known of a text once it has arrived."""
    if isinstance(scan, FileScanner):
        text = upload.format is FileFormat.txt
        return {"state": IntakeState.pending, "format": "txt" if text else "jsonl", "text_field": None}
    return {
        "state": IntakeState.ready,
        "format": scan.format,
        "text_field": scan.text_field,
        "bytes": scan.bytes,
        "documents": scan.documents,
        "characters": scan.characters,
        "sha256": scan.sha256,
    }


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
    """Unless another dataset has the same."""
    with backend.sessions.begin() as session:
        release_object(session, backend.store, key)


def release_object(session: Session, store: ObjectStore, key: str) -> None:
    """Delete an object that no dataset stands for, in a transaction of its own after the one that gave it up:
    under the key's lock no dataset ever stands without its text."""
    repository.lock_object(session, key)
    if not repository.is_referred(session, key):
        store.delete([key])
