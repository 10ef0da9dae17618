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
from app.db.engine import transaction
from app.quotas import service as quotas
from app.settings import Settings
from app.storage import open_store
from app.tables.datasets import Dataset, IntakeState
from app.tables.models import Model
from app.tables.tasks import TaskKind
from worker.intake.context import Context
from worker.intake.datasets import fetch_dataset, hold_text, release_text
from worker.intake.models import hold_files, take_model
from worker.model_files.errors import IntakeError

Guard = Callable[[Session], None]
Check = Callable[[], None]

Table = type[Model] | type[Dataset]

_TABLES: Final[dict[TaskKind, Table]] = {TaskKind.model_intake: Model, TaskKind.dataset_fetch: Dataset}


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
        request = dict(row.source) if isinstance(row, Model) else dict(row.hub or {})
        roots = tuple(own_roots(session, row.project_id))
        token = open_token(session, row.project_id, settings.secret.get_secret_value())
    with scratch_folder(settings) as folder:
        in_time = _in_time(check, settings.intake_seconds)
        store = open_store(settings)
        context = Context(row.project_id, folder, store, settings, in_time, own_roots=roots, hub_token=token)
        context = replace(context, storage_left=partial(_storage_left, row.project_id))
        try:
            facts = take_model(request, context) if table is Model else fetch_dataset(request, context)
            context.need_quota(facts["bytes"])
            values = {**facts, "state": IntakeState.ready, "error": None}
        except IntakeError as error:
            values = {"state": IntakeState.failed, "error": error.as_json()}
        _write(table, subject_id, values, guard, context)


def _storage_left(project: str) -> int | None:
    with transaction() as session:
        return quotas.storage_left(session, project)


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
        if context.stored:
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
