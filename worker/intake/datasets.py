"""Datasets on their way in: an uploaded file, or one split of a hub dataset, as a text in the store."""

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from app.datasets import repository
from app.datasets.text import GROWTH_SLACK, MOST_GROWTH
from secateur.digests import file_sha256
from worker.intake.context import Context
from worker.intake.hub import PARQUET_BRANCH, HubFile, HubRepo, open_repo
from worker.isolation import Limits, run_isolated
from worker.model_files.errors import IntakeError

TEXT: Final = "dataset.jsonl"
"""The text's name in the scratch folder."""
CARD: Final = "README.md"
CARD_BYTES: Final = 4 * 2**20
_ENDINGS: Final = {".gz": "gzip", ".zst": "zstd"}
_MODULES: Final = {"csv": "csv", "parquet": "parquet", "txt": "scan", "jsonl": "scan"}
"""How an uploaded format's rows are read; `scan` takes the text as it is."""
READER: Final = "worker.intake.rows.reader"
WHAT: Final = "the dataset"
SPARE_BYTES: Final = 64 * 2**20
"""What a text may be longer than allowed before the kernel says so; the reader does it earlier."""
BYTES_A_SECOND: Final = 200_000
"""Of a file as it was sent, what a slow machine reads at least."""


_FACTS: Final = ("format", "text_field", "documents", "characters", "sha256")
"""Columns of the dataset's row that its reader fills."""


def take_upload(upload: dict[str, Any], key: str, context: Context) -> dict[str, Any]:
    """Read an uploaded file and bring its text into the store; the values of its row.

    upload: as in the dataset's row. key: of the file as it was sent.
    """
    path = context.scratch / "upload"
    context.need_disk(int(upload["bytes"]))
    context.store.download(key, path, context.check)
    file = {
        "path": str(path),
        "name": f"upload.{upload['format']}",
        "module": _MODULES[upload["format"]],
        "compression": upload["compression"],
    }
    facts = _read([file], upload.get("text_field"), "", context)
    return {**_stored(facts, context), "upload": {**upload, "null_rows": facts["null_rows"]}}


def fetch_dataset(hub: dict[str, Any], context: Context) -> dict[str, Any]:
    """Bring a split of a hub dataset into the store; the values of its row.

    hub: as in the dataset's row: `id`, `config`, `split` (train), `revision`, `text_field`.
    """
    repo = open_repo("dataset", hub.get("id"), "/hub", context)
    commit, files, record = _find_split(repo, hub)
    limit = context.settings.max_upload_bytes
    if sum(file.bytes for file in files.values()) > limit:
        raise IntakeError(
            "dataset_too_large",
            f"The split is larger than the {limit} bytes that this service takes; choose a smaller configuration "
            "or split, or upload an extract.",
            "/hub/split",
        )
    fetched = [_fetched(repo, commit, path, file, context) for path, file in files.items()]
    facts = _read(fetched, hub.get("text_field"), "/hub", context)
    return {**_stored(facts, context), "hub": {**hub, **record, "null_rows": facts["null_rows"]}}


def hold_text(session: Session, key: str, context: Context) -> None:
    """Keep the text in the store until the transaction ends.

    Since it was stored, somebody may have deleted the last dataset with the same text, and the text with it.
    """
    repository.lock_object(session, key)
    if context.store.head(key) is None:
        context.store.put_file(key, _workspace(context) / TEXT)


def release_text(session: Session, key: str, context: Context) -> None:
    """The dataset was deleted while its text was made. The transaction must hold the text."""
    if not repository.is_referred(session, key):
        context.store.delete([key])


def _read(files: list[dict[str, str]], field: Any, pointer: str, context: Context) -> dict[str, Any]:
    paths = [Path(file["path"]) for file in files]
    most = min(context.settings.max_upload_bytes, MOST_GROWTH * _bytes_of(paths) + GROWTH_SLACK)
    packed = any(file["compression"] != "none" for file in files)
    context.need_disk(most * (1 + packed))  # the text, and beside it the plain file of a packed one
    request = {
        "act": "read",
        "files": files,
        "field": field,
        "limit": context.settings.max_upload_bytes,
        "scratch": str(_workspace(context)),
        "target": str(_workspace(context) / TEXT),
        "pointer": pointer,
    }
    return _ask(request, context, paths, f"{pointer}/text_field")


def _ask(request: dict[str, Any], context: Context, readable: list[Path], field: str) -> dict[str, Any]:
    settings = context.settings
    seconds = settings.child_seconds + _bytes_of(readable) / BYTES_A_SECOND
    return run_isolated(
        READER,
        request,
        what=WHAT,
        workspace=_workspace(context),
        readable=readable,
        limits=Limits.of_reader(settings.child_memory_bytes, seconds, 1, settings.max_upload_bytes + SPARE_BYTES),
        field=field,
        check=context.check,
    )


def _workspace(context: Context) -> Path:
    folder = context.scratch / "reading"
    folder.mkdir(exist_ok=True)
    return folder


def _stored(facts: dict[str, Any], context: Context) -> dict[str, Any]:
    """The text that the child has written, put into the store; the values of the dataset's row.

    Of a child that a file has taken over nothing is believed.
    """
    text = _workspace(context) / TEXT
    if not stat.S_ISREG(text.lstat().st_mode) or file_sha256(text) != facts["sha256"]:
        raise RuntimeError("the reader's text is not what it says")
    key = repository.object_key(context.project_id, facts["sha256"])
    context.check()
    context.need_quota(text.stat().st_size)
    context.store.put_file(key, text)
    return {**{name: facts[name] for name in _FACTS}, "bytes": text.stat().st_size, "object_key": key}


def _bytes_of(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _fetched(repo: HubRepo, commit: str, path: str, file: HubFile, context: Context) -> dict[str, str]:
    local = repo.download(commit, path, file, context.scratch / "hub")
    suffix = Path(path).suffix.lower()
    plain = path[: -len(suffix)] if suffix in _ENDINGS else path
    return {
        "path": str(local),
        "name": path,
        "module": _module(plain),
        "compression": _ENDINGS.get(suffix, "none"),
    }


def _module(path: str) -> str:
    endings = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "text"}
    return endings.get(Path(path).suffix.lower(), "json")


def _find_split(repo: HubRepo, hub: Mapping[str, Any]) -> tuple[str, dict[str, HubFile], dict[str, Any]]:
    """A commit, the split's files there by path, and what the dataset's row records about them."""
    config, split, revision = hub.get("config"), str(hub.get("split") or "train"), hub.get("revision")
    commit = repo.resolve(revision)
    tree = repo.tree(commit, recursive=True)
    paths = _choose(tree, _card(repo, commit, tree), config, split, repo.context)
    if paths:
        return commit, {path: tree[path] for path in paths}, {"commit": commit}
    if revision not in (None, "main"):  # the hub's copy is of the main branch only
        raise _no_files()
    copy = _copy_commit(repo)
    tree = repo.tree(copy, recursive=True)
    paths = parquet_branch_files(sorted(tree), config, split)
    return copy, {path: tree[path] for path in paths}, {"commit": commit, "parquet_commit": copy}


def _choose(
    tree: Mapping[str, HubFile], card: Path | None, config: str | None, split: str, context: Context
) -> list[str]:
    folder = _workspace(context) / "tree"
    folder.mkdir(exist_ok=True)
    request = {
        "act": "choose",
        "folder": str(folder),
        "paths": sorted(tree),
        "readme": str(card) if card is not None else None,
        "config": config,
        "split": split,
    }
    files: list[str] = _ask(request, context, [card] if card is not None else [], "/hub/id")["files"]
    return [path for path in files if path in tree]


def parquet_branch_files(paths: list[str], config: str | None, split: str) -> list[str]:
    """Files of a split in the hub's own Parquet copy: `config/split/0000.parquet`."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in paths:
        parts = path.split("/")
        if len(parts) == 3 and path.endswith(".parquet"):
            found.setdefault(parts[0], {}).setdefault(parts[1], []).append(path)
    name = config or ("default" if "default" in found else next(iter(found), ""))
    if name not in found or (config is None and name != "default" and len(found) > 1):
        raise _unknown("config", found)
    if split not in found[name]:
        raise _unknown("split", found[name])
    return sorted(found[name][split])


def _unknown(what: str, known: Mapping[str, object]) -> IntakeError:
    shown = ", ".join(name[:60] for name in sorted(known)[:20]) or "none"
    return IntakeError(f"{what}_not_found", f"The dataset's {what}s are: {shown}.", f"/hub/{what}")


def _card(repo: HubRepo, commit: str, tree: Mapping[str, HubFile]) -> Path | None:
    if CARD not in tree:
        return None
    if tree[CARD].bytes > CARD_BYTES:
        raise IntakeError("dataset_card_invalid", f"The dataset's {CARD} is too large.", "/hub/id")
    return repo.download(commit, CARD, tree[CARD], repo.context.scratch / "hub")


def _copy_commit(repo: HubRepo) -> str:
    try:
        return repo.resolve(PARQUET_BRANCH)
    except IntakeError as error:
        if error.code == "hub_revision_not_found":
            raise _no_files() from error
        raise


def _no_files() -> IntakeError:
    return IntakeError(
        "dataset_files_not_found",
        "No Parquet, JSON-lines, CSV or text files of this split were found, and the hub keeps no Parquet copy of "
        "the revision. Code in a dataset's repository is never run; upload the text instead.",
        "/hub/split",
    )
