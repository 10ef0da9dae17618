"""One task of the CPU queue, from its subject's row to the row's final state."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.auth.hub_tokens import open_token
from app.auth.repository import own_roots
from app.datasets.service import release_object
from app.db.engine import transaction
from app.models.repository import drop_parts
from app.models.repository import parts as model_parts
from app.quotas import service as quotas
from app.settings import Settings
from app.storage import open_store
from app.tables.datasets import Dataset, IntakeState
from app.tables.models import Model
from app.tables.tasks import TaskKind
from worker.intake.context import Context
from worker.intake.datasets import fetch_dataset, hold_text, release_text, take_upload
from worker.intake.models import hold_files, take_model
from worker.model_files.errors import IntakeError

Guard = Callable[[Session], None]
Check = Callable[[], None]

Table = type[Model] | type[Dataset]

_TABLES: Final[dict[TaskKind, Table]] = {
    TaskKind.model_intake: Model,
    TaskKind.dataset_fetch: Dataset,
    TaskKind.dataset_intake: Dataset,
}


def run(kind: str, subject_id: str, guard: Guard, check: Check, settings: Settings) -> None:
    """Do a task: afterwards its subject is `ready` with its facts, or `failed` with the user's error.

    guard: called in the transaction that writes, before it does; raises when the task's lease is lost.
    check: called often; raises when the work must stop.
    A subject that is gone or already final is left alone. Every other exception is the system's: the row
    stays `pending` and the task may be tried again.
    """
    table = _TABLES[TaskKind(kind)]
    with transaction() as session:
        row = cast(Model | Dataset | None, session.get(table, subject_id))
        if row is None or row.state != IntakeState.pending:
            return
        roots = tuple(own_roots(session, row.project_id))
        token = open_token(session, row.project_id, settings.secret.get_secret_value())
        take = _work(session, row)
        sent = row.object_key if isinstance(row, Dataset) else None
    with scratch_folder(settings) as folder:
        in_time = _in_time(check, settings.intake_seconds)
        store = open_store(settings)
        context = Context(row.project_id, folder, store, settings, in_time, own_roots=roots, hub_token=token)
        context = replace(context, storage_left=partial(_storage_left, row.project_id, subject_id))
        try:
            facts = take(context)
            context.need_quota(facts["bytes"])
            values = {**facts, "state": IntakeState.ready, "error": None}
        except IntakeError as error:
            values = {"state": IntakeState.failed, "error": error.as_json()}
            if table is Dataset:
                values["object_key"] = None
        _write(table, subject_id, values, guard, context)
        if sent is not None:
            _release_sent(sent, context)
        if table is Model:
            _drop_parts(subject_id, context)


def _work(session: Session, row: Model | Dataset) -> Callable[[Context], dict[str, Any]]:
    """What takes it in and gives the values of its row."""
    if isinstance(row, Model):
        parts: dict[str, list[str]] = {}
        for part in model_parts(session, row.id):
            parts.setdefault(part.path, []).append(part.object_key)
        return partial(take_model, dict(row.source), parts=parts)
    if row.upload is not None:
        return partial(take_upload, dict(row.upload), row.object_key or "")
    return partial(fetch_dataset, dict(row.hub or {}))


def _release_sent(key: str, context: Context) -> None:
    """The file as it was sent is not needed any more; the sweep removes it where this cannot."""
    with transaction() as session:
        release_object(session, context.store, key)


def _drop_parts(model: str, context: Context) -> None:
    """What an upload was sent in, once its model has its own files or none."""
    with transaction() as session:
        keys = drop_parts(session, model)
    context.store.delete(keys)


def _storage_left(project: str, subject: str) -> int | None:
    """What came for the subject itself counts until it is taken in, and makes room for what it becomes."""
    with transaction() as session:
        left = quotas.storage_left(session, project)
        return None if left is None else left + quotas.sent_bytes(session, subject)


def _in_time(check: Check, seconds: float) -> Check:
    """The same check, which also ends what takes longer than that: some input is made to take for ever."""
    deadline = time.monotonic() + seconds

    def act() -> None:
        check()
        if time.monotonic() > deadline:
            raise IntakeError(
                "took_too_long",
                f"Reading this took longer than the {seconds:g} seconds that the service gives it. Use something "
                "smaller, or ask its operator for more time (`intake_seconds`).",
            )

    return act


def _write(table: Table, subject_id: str, values: dict[str, Any], guard: Guard, context: Context) -> None:
    key = values.get("object_key")
    with transaction() as session:
        if key is not None:  # before the guard, whose lock the heartbeat needs
            hold_text(session, key, context)
        if context.stored and values["state"] == IntakeState.ready:
            hold_files(session, context)
        guard(session)
        pending = (table.id == subject_id, table.state == IntakeState.pending)
        written = session.scalar(update(table).where(*pending).values(**values).returning(table.id))
        if written is None and key is not None:
            release_text(session, key, context)


@contextmanager
def scratch_folder(settings: Settings) -> Iterator[Path]:
    """A private folder below the work folder, removed afterwards."""
    parent = settings.work_dir / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="intake-", dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name)
