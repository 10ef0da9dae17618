"""`output.publish_to`: a finished job's model as a plain folder at a place of its project's own in the store."""

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.engine import transaction
from app.delivery.events import append_event, lock_job
from app.delivery.object_keys import MODEL, published_folder
from app.storage import ObjectStore
from app.tables.event_types import EventType
from app.tables.jobs import Job, JobEvent
from app.tables.states import State
from secateur.digests import tree_digest

log = logging.getLogger(__name__)


def run(job_id: str, guard: Callable[[Session], None], check: Callable[[], None], store: ObjectStore) -> None:
    """Copy the files, then say so in an event; harmless again. A job that is gone is left alone.

    guard: called in the transaction that writes; raises when the task's lease is lost. check: called often; raises
    when the work must stop. Raises StoreError.
    """
    with transaction() as session:
        job = session.get(Job, job_id)
        if job is None or job.manifest is None or job.state != State.succeeded or _is_copied(session, job_id):
            return
        prefix = str(job.spec["output"]["publish_to"])
        folder = published_folder(job.project_id, prefix)
        files = [file for file in job.manifest["files"] if file["path"].startswith(MODEL)]
    wanted = {f"{folder}/{file['path'].removeprefix(MODEL)}": file for file in files}
    _clear(store, folder, set(wanted), check)
    for key, file in wanted.items():
        check()
        store.copy(file["key"], key)
    data = _event(prefix, files)
    with transaction() as session:
        guard(session)
        job = session.get(Job, job_id)
        if job is None:
            return
        lock_job(session, job)
        if not _is_copied(session, job_id):
            job.stored_bytes += data["bytes"]
            append_event(session, job, EventType.copied, data)


def _is_copied(session: Session, job_id: str) -> bool:
    query = select(JobEvent.seq).where(JobEvent.job_id == job_id, JobEvent.type == EventType.copied)
    return session.scalar(query.limit(1)) is not None


def _clear(store: ObjectStore, folder: str, keep: set[str], check: Callable[[], None]) -> None:
    """Take away what a job left that had the place before and was deleted: the folder is to be one model."""
    left = [key for key, _ in store.list(folder) if key not in keep]
    for key in left:
        check()
        store.delete([key])
    if left:
        log.info("%d files of an earlier job were taken from a published folder", len(left))


def _event(prefix: str, files: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "prefix": prefix,
        "digest": tree_digest((file["path"].removeprefix(MODEL), file["sha256"]) for file in files),
        "files": len(files),
        "bytes": sum(file["bytes"] for file in files),
    }
