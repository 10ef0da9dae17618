"""Model intake: from a folder, a hub or a GGUF file to content-addressed files in the store."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from app.datasets.repository import lock_object
from app.models import repository
from secateur.digests import file_sha256, tree_digest
from worker.intake.context import Context
from worker.intake.fit import check_fit
from worker.intake.gguf import convert
from worker.intake.hub import HubFile, HubRepo, open_repo
from worker.intake.licence import CARD, CARD_BYTES
from worker.intake.roots import resolve, root_of
from worker.intake.scan import SHOWN
from worker.intake.scanning import small_files_of, weights_of
from worker.intake.sources import FolderSource, Source, stamp
from worker.intake.uploaded import UploadedSource
from worker.model_files.choose import INDEX, small_files, weight_files, weights_left
from worker.model_files.errors import IntakeError

DTYPES: Final = ("bfloat16", "float16", "float32")


def take_model(
    source: dict[str, Any], context: Context, parts: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Check a model and bring it into the store; the values of its row.

    source: as in the model's row: `type` folder (`path`), hub (`id`, `revision`), gguf (`path`, `dtype`) or upload
    (`files`). parts: of an upload's files, by their names, the keys of what was sent, in order.
    """
    match source.get("type"):
        case "folder":
            return _take(_folder(source, context), context)
        case "hub":
            return _take_from_hub(source, context)
        case "gguf":
            return _take(_converted(source, context), context)
        case "upload":
            return _take(UploadedSource(source["files"], parts or {}, context), context)
    raise IntakeError("source_unknown", "The source's type must be folder, hub, gguf or upload.", "/source/type")


def _folder(source: dict[str, Any], context: Context) -> Source:
    roots = context.roots
    folder = resolve(roots, source.get("path"))
    if not folder.is_dir():
        raise IntakeError("not_a_folder", "The path must name the folder that holds the model.", "/source/path")
    return FolderSource(folder, root_of(roots, folder))


def _take_from_hub(source: dict[str, Any], context: Context) -> dict[str, Any]:
    repo = open_repo("model", source.get("id"), "/source", context)
    commit = repo.resolve(source.get("revision"))
    values = _take(HubSource(repo, commit, context.scratch / "hub"), context)
    return {**values, "source": {**source, "commit": commit}}


def _converted(source: dict[str, Any], context: Context) -> Source:
    path = resolve(context.roots, source.get("path"))
    dtype = source.get("dtype") or DTYPES[0]
    if dtype not in DTYPES:
        raise IntakeError("dtype_unknown", f"The dtype must be one of {', '.join(DTYPES)}.", "/source/dtype")
    if not path.is_file() or path.suffix.lower() != ".gguf":
        raise IntakeError("not_a_gguf", "The path must name a file that ends in .gguf.", "/source/path")
    target = convert(path, str(dtype), context)
    return FolderSource(target, target)


def hold_files(session: Session, context: Context) -> None:
    """Keep the files of `take_model` in the store until the transaction ends.

    Other models have the same files; the last of them may have been deleted, and the sweep come by, since ours
    were stored.
    """
    lock_object(session, repository.objects_folder(context.project_id))
    for key, path in context.stored.items():
        if context.store.head(key) is None:
            context.store.put_file(key, path)


@dataclass(frozen=True)
class HubSource:
    """The top level of a hub repository at one commit; files are fetched into `folder`."""

    repo: HubRepo
    commit: str
    folder: Path

    def listing(self) -> dict[str, int]:
        return {name: file.bytes for name, file in self._tree.items()}

    def fetch(self, names: Iterable[str]) -> dict[str, Path]:
        files = {name: self._tree[name] for name in names}
        size = sum(file.bytes for file in files.values())
        self.repo.context.need_quota(size)
        self.repo.context.need_disk(size)
        return {
            name: self.repo.download(self.commit, name, file, self.folder).resolve()
            for name, file in files.items()
        }

    @cached_property
    def _tree(self) -> dict[str, HubFile]:
        return self.repo.tree(self.commit, recursive=False)


def _take(source: Source, context: Context) -> dict[str, Any]:
    """Scan the small files before any weight is fetched, then the weights, then store all of them."""
    listing = source.listing()
    files = source.fetch(small_files(listing))
    description, license = small_files_of(files | _card(source, listing, context), context)
    files |= source.fetch(weight_files(listing, files.get(INDEX, Path(INDEX))))
    if left := weights_left(listing, files):
        message = "the folder has other weights, which were not taken, nor merged: " + ", ".join(left[:SHOWN])
        context.warn("weights_not_taken", message, files=left[:SHOWN])
    before = {name: stamp(path) for name, path in files.items()}
    weights = weights_of(files, context)
    unused = check_fit(files, weights, context)
    dtype = weights.dtype(unused)
    stored = _store(files, context)
    if any(stamp(path) != before[name] for name, path in files.items()):
        raise IntakeError("source_changed", "The files changed while they were read; register the model again.")
    return {
        "license": license,
        "architecture": description.architecture,
        "model_type": description.model_type,
        "blocks": description.blocks,
        "dtype": dtype,
        "parameters": weights.parameters,
        "files": stored,
        "bytes": sum(file["bytes"] for file in stored),
        "digest": tree_digest((file["path"], file["sha256"]) for file in stored),
        "warnings": context.warnings,
    }


def _card(source: Source, listing: Mapping[str, int], context: Context) -> dict[str, Path]:
    """The model's card, which is read and not taken."""
    if listing.get(CARD, 0) > CARD_BYTES:
        message = f"the licence of {CARD} was not recorded: it is larger than {CARD_BYTES} bytes"
        context.warn("licence_not_read", message)
        return {}
    return source.fetch([CARD]) if CARD in listing else {}


def _store(files: Mapping[str, Path], context: Context) -> list[dict[str, Any]]:
    """Put the files under their digests. They are written even when present, which keeps the sweep off them."""
    context.need_quota(sum(path.stat().st_size for path in files.values()))
    stored = []
    for name, path in sorted(files.items()):
        context.check()
        sha256 = file_sha256(path)
        context.check()
        key = f"{repository.objects_folder(context.project_id)}/{sha256}"
        context.store.put_file(key, path)
        context.stored[key] = path
        stored.append({"path": name, "sha256": sha256, "bytes": path.stat().st_size, "key": key})
    return stored
