"""Garbage: objects of the store that nothing refers to, and nothing ever will.

Jobs need no lock, because the key of an object says who may still come to refer to it
(`app.delivery.object_keys`). Datasets and models share objects by content; there the last look and the deletion
happen under the lock that intake takes, too.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.datasets import repository as datasets
from app.db.engine import transaction
from app.delivery import object_keys
from app.garbage import repository
from app.models import repository as models
from app.settings import Settings
from app.storage import ObjectStore
from app.storage.store import REQUEST_SECONDS, RETRY_SECONDS
from app.tasks.service import WHOLE_STORE

log = logging.getLogger(__name__)

BATCH: Final = 20
"""Objects deleted under one lock, or between two looks whether to stop."""
PROJECTS: Final = "projects"
_SILENCE_SECONDS: Final = 2 * (REQUEST_SECONDS + RETRY_SECONDS)
"""No deletion of one object takes so long, with all that the client library tries."""


@dataclass(frozen=True)
class Sweep:
    """One pass. Safe beside any number of workers and other sweeps; may stop and begin again anywhere."""

    store: ObjectStore
    check: Callable[[], None]
    """Called often; raises to give up."""
    age: timedelta
    """Younger objects are left alone."""

    def everything(self) -> int:
        """The whole store; how many objects were removed."""
        roots = list(self.store.folders(object_keys.JOBS))
        count = sum(self.chain(root) for root in roots)
        for project in list(self.store.folders(PROJECTS)):
            count += self.datasets(project) + self.models(project)
            count += self.uploads(project) + self.published(project)
        return count + self.store.remove_leftovers(datetime.now(UTC) - self.age, self.check)

    def chain(self, root: str) -> int:
        """The objects of a chain of retries."""
        folder = object_keys.folder_of(root)
        listed = list(self._old(folder))
        with transaction() as session:
            view = repository.chain(session, root)
        count = 0
        for batch in _batches(key for key in listed if view.is_garbage(key)):
            self.check()
            self.store.delete(batch)
            count += len(batch)
        if not view.known:
            self.store.remove_empty_folders(folder)
        return count

    def datasets(self, project: str) -> int:
        """Texts that no dataset stands for."""
        count = 0
        for key in list(self._old(f"{PROJECTS}/{project}/datasets")):
            self.check()
            with transaction() as session:
                datasets.lock_object(session, key)
                if not datasets.is_referred(session, key):
                    self._delete(session, [key])
                    count += 1
        return count

    def models(self, project: str) -> int:
        """Files that no model has."""
        count = 0
        for batch in _batches(self._old(f"{PROJECTS}/{project}/models")):
            self.check()
            with transaction() as session:
                doomed = _unreferred(session, project, batch)
                self._delete(session, doomed)
                count += len(doomed)
        return count

    def uploads(self, project: str) -> int:
        """Parts of models that are not being uploaded any more, and what was sent to no upload's end."""
        count = 0
        for batch in _batches(self._old(models.uploads_folder(project))):
            self.check()
            with transaction() as session:
                kept = models.part_keys(session, batch)
                # What was sent straight to the store is a part only when its model is complete.
                taking = models.uploading(session, {models.upload_of(key) for key in batch})
            doomed = [key for key in batch if key not in kept and models.upload_of(key) not in taking]
            self.store.delete(doomed)
            count += len(doomed)
        return count

    def published(self, project: str) -> int:
        """Published models whose jobs were deleted."""
        folder = object_keys.published_folder(project)
        count = 0
        for batch in _batches(self._old(folder)):
            self.check()
            with transaction() as session:
                places = [f"{folder}/{place}/" for place in repository.published_places(session, project)]
            doomed = [key for key in batch if not key.startswith(tuple(places))]
            self.store.delete(doomed)
            count += len(doomed)
        return count

    def _delete(self, session: Session, keys: list[str]) -> None:
        """Delete under the session's lock, which is gone when the server has ended the session for its silence.

        Each statement raises if that has happened; the next deletion alone must then be shorter than it allows.
        """
        for key in keys:
            session.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{_SILENCE_SECONDS}s'"))
            self.store.delete([key])

    def _old(self, folder: str) -> Iterator[str]:
        before = datetime.now(UTC) - self.age
        for entry in self.store.entries(folder):
            self.check()
            if entry.modified <= before:
                yield entry.key


def run(subject: str, check: Callable[[], None], settings: Settings, store: ObjectStore) -> None:
    """A task of the kind `garbage`: one chain at once, or the whole store, step by step. Raises StoreError."""
    age = timedelta(seconds=settings.garbage_seconds if subject == WHOLE_STORE else 0)
    sweep = Sweep(store, check, age)
    if subject == WHOLE_STORE:
        _drop_checkpoints(settings, check)
        count = sweep.everything()
    else:
        count = sweep.chain(subject)
    log.info("%d objects were swept", count)


def _drop_checkpoints(settings: Settings, check: Callable[[], None]) -> None:
    while True:
        check()
        with transaction() as session:
            if not repository.drop_checkpoints(session, settings.checkpoint_days * 86_400):
                return


def _unreferred(session: Session, project: str, keys: list[str]) -> list[str]:
    """Those that may be deleted before the transaction ends."""
    datasets.lock_object(session, models.objects_folder(project))
    referred = repository.model_keys(session, project)
    return [key for key in keys if key not in referred]


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(keys)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch
