"""A model that its owner has sent: its files put together from the parts in the store, and checked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.storage import ObjectMissing
from secateur.digests import file_sha256
from worker.intake.context import Context
from worker.model_files.errors import IntakeError


@dataclass(frozen=True)
class UploadedSource:
    """files: `path`, `bytes`, `sha256` as announced. parts: keys of each file's objects, in order."""

    files: Sequence[Mapping[str, Any]]
    parts: Mapping[str, Sequence[str]]
    context: Context

    def listing(self) -> dict[str, int]:
        return {file["path"]: file["bytes"] for file in self.files}

    def fetch(self, names: Iterable[str]) -> dict[str, Path]:
        wanted = {file["path"]: (number, file) for number, file in enumerate(self.files)}
        chosen = {name: wanted[name] for name in names}
        self.context.need_disk(sum(file["bytes"] for _, file in chosen.values()))
        return {name: self._bring(number, file) for name, (number, file) in chosen.items()}

    def _bring(self, number: int, file: Mapping[str, Any]) -> Path:
        folder = self.context.scratch / "uploaded"
        folder.mkdir(exist_ok=True)
        target: Path = folder / file["path"]
        try:
            with target.open("wb") as out:
                for key in self.parts.get(file["path"], ()):
                    for piece in self.context.store.stream(key):
                        self.context.check()
                        out.write(piece)
        except ObjectMissing:
            raise self._refuse("upload_lost", f"A part of {file['path']} is not in the store", number) from None
        if target.stat().st_size != file["bytes"] or file_sha256(target) != file["sha256"]:
            raise self._refuse("digest_mismatch", f"{file['path']} is not what its sha256 says", number)
        return target

    def _refuse(self, code: str, what: str, number: int) -> IntakeError:
        return IntakeError(code, f"{what}; upload the model anew.", f"/source/files/{number}/sha256")
