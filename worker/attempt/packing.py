"""The form in which a job delivers its models: files as the engine wrote them, or packed on the way to the store.

The engine reads and writes dense files alone; here they become packed, and dense again for a continuation.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final

from app.delivery.claim import Claim
from app.delivery.object_keys import MODEL, StoredFile
from secateur.packed import Base, pack_file
from secateur.packed.folder import SUFFIX, packed_name
from secateur.packed.format import PREFIX
from secateur.spec.output import Form
from worker.attempt.cache import fetch_checked
from worker.attempt.interrupts import Interrupts, persist
from worker.attempt.scratch import Scratch
from worker.attempt.uploads import Uploads

_FOLDER: Final = MODEL.rstrip("/")
Download = Callable[[str, Path], None]


def form_of(spec: Mapping[str, Any]) -> Form:
    """What a resolved spec asks for; one of a release before says nothing."""
    return Form(spec.get("output", {}).get("form", Form.dense))


def base_name(claim: Claim) -> str:
    """What masks record as the model that they are of."""
    return f"model:{claim.model_digest}"


@dataclass(frozen=True)
class Packing:
    """Puts the artifact's files into the store, those of models in the job's form."""

    claim: Claim
    scratch: Scratch
    uploads: Uploads
    interrupts: Interrupts
    download: Download
    """Writes the object of a key to a path."""

    def put_output(self, local: str, path: str, committed: Mapping[str, StoredFile]) -> StoredFile:
        """A file of the engine's output, under the name of its form; see `Uploads.put_output`."""
        if not self._is_packed(path):
            return self.uploads.put_output(local, self._name(path), committed)
        return self._pack(self.uploads.plain_file(local), path)

    def put_kept(self, file: StoredFile) -> StoredFile:
        """What the artifact has of an earlier stage, whose weights only the store may have."""
        if not self._is_packed(file.path):
            return file
        with self._room() as room:
            dense = room / PurePosixPath(file.path).name
            persist(self.interrupts, lambda: fetch_checked(file, dense, self.download))
            return self._pack(dense, file.path)

    def _pack(self, dense: Path, path: str) -> StoredFile:
        with self._room() as room:
            packed = pack_file(dense, room, self._base, self.interrupts.check)
            return self.uploads.put_made_file(packed, self._name(path))

    @cached_property
    def _base(self) -> Base | None:
        """The dense model where masks are enough."""
        if form_of(self.claim.spec) is not Form.masks:
            return None
        return Base.open(self.scratch.model, base_name(self.claim))

    def _is_packed(self, path: str) -> bool:
        """Whether it is a dense file of weights, and another form was asked for."""
        name = PurePosixPath(path).name
        return self._name(path) != path and name.endswith(SUFFIX)

    def _name(self, path: str) -> str:
        place = PurePosixPath(path)
        dense = form_of(self.claim.spec) is Form.dense or place.parent.name != _FOLDER
        return path if dense or place.name.startswith(PREFIX) else str(place.with_name(packed_name(place.name)))

    @contextmanager
    def _room(self) -> Iterator[Path]:
        """A folder for one file on its way, where the engine has nothing."""
        with tempfile.TemporaryDirectory(dir=self.scratch.folder) as folder:
            yield Path(folder)
