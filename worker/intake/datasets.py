"""Hub datasets: the text column of one split, as JSON lines in the store."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

from sqlalchemy.orm import Session

from app.datasets import repository
from app.datasets.text import MAX_LINE_BYTES
from worker.intake.context import Context
from worker.intake.dataset_card import CARD, CARD_BYTES, CardConfig, read_card
from worker.intake.dataset_files import parquet_branch_files, split_files
from worker.intake.dataset_text import CHECK_EVERY, TextFile, too_large
from worker.intake.hub import PARQUET_BRANCH, HubFile, HubRepo, open_repo
from worker.model_files.errors import IntakeError

TEXT: Final = "dataset.jsonl"
"""The text's name in the scratch folder."""
NULL_BYTES: Final = len(b'{"text": ""}\n')
"""What a row without a text counts for, so that there is a bound on how many are read."""


def fetch_dataset(hub: dict[str, Any], context: Context) -> dict[str, Any]:
    """Bring a split of a hub dataset into the store; the values of its row.

    hub: as in the dataset's row: `id`, `config`, `split` (train), `revision`, `text_field` (text).
    """
    repo = open_repo("dataset", hub.get("id"), "/hub", context)
    split = _Split.find(repo, hub)
    limit = context.settings.max_upload_bytes
    if sum(file.bytes for file in split.files.values()) > limit:
        raise too_large(limit)
    target = context.scratch / TEXT
    field = str(hub.get("text_field") or "text")

    def texts() -> Iterator[str | None]:
        for path, file in split.files.items():
            local = repo.download(split.commit, path, file, context.scratch / "hub")
            yield from TextFile(local, path, field, limit, context.check).texts()
            local.unlink()

    with target.open("wb") as file:
        written = _write_lines(texts(), file, limit, context.check)
    if written.blank:
        raise IntakeError("dataset_empty", "The split holds no text.", "/hub/split")
    key = repository.object_key(context.project_id, written.sha256)
    context.check()
    context.store.put_file(key, target)
    return {
        "format": "jsonl",
        "text_field": "text",
        "hub": {**hub, **split.record, "null_rows": written.nulls},
        "bytes": written.bytes,
        "documents": written.documents,
        "characters": written.characters,
        "sha256": written.sha256,
        "object_key": key,
    }


def hold_text(session: Session, key: str, context: Context) -> None:
    """Keep the text of `fetch_dataset` in the store until the transaction ends.

    Since it was stored, somebody may have deleted the last dataset with the same text, and the text with it.
    """
    repository.lock_object(session, key)
    if context.store.head(key) is None:
        context.store.put_file(key, context.scratch / TEXT)


def release_text(session: Session, key: str, context: Context) -> None:
    """The dataset was deleted while its text was fetched. The transaction must hold the text."""
    if not repository.is_referred(session, key):
        context.store.delete([key])


@dataclass(frozen=True)
class _Split:
    """Files of a split (by path) at a commit, and what the dataset's row records about them."""

    commit: str
    files: dict[str, HubFile]
    record: dict[str, Any]

    @classmethod
    def find(cls, repo: HubRepo, hub: dict[str, Any]) -> "_Split":
        config, split, revision = hub.get("config"), str(hub.get("split") or "train"), hub.get("revision")
        commit = repo.resolve(revision)
        tree = repo.tree(commit, recursive=True)
        paths = split_files(sorted(tree), _cards(repo, commit, tree), config, split, repo.context.check)
        if paths:
            return cls(commit, {path: tree[path] for path in paths}, {"commit": commit})
        if revision not in (None, "main"):  # the hub's copy is of the main branch only
            raise _no_files()
        copy = _copy_commit(repo)
        tree = repo.tree(copy, recursive=True)
        paths = parquet_branch_files(sorted(tree), config, split)
        return cls(copy, {path: tree[path] for path in paths}, {"commit": commit, "parquet_commit": copy})


@dataclass(frozen=True)
class _Written:
    """nulls: rows without a text, which are left out. blank: no row had a character that is not white space."""

    bytes: int
    documents: int
    characters: int
    nulls: int
    blank: bool
    sha256: str


def _write_lines(texts: Iterable[str | None], file: IO[bytes], limit: int, check: Callable[[], None]) -> _Written:
    """Canonical lines `{"text": …}`. Raises IntakeError for a text that could not be stored or read back as it is,
    and for more than `limit` bytes."""
    size = documents = characters = nulls = 0
    blank, digest = True, hashlib.sha256()
    for number, text in enumerate(texts):
        if number % CHECK_EVERY == 0:
            check()
        line = b"" if text is None else _line(text, f"Row {number}")
        size += len(line)
        nulls += text is None
        if size + NULL_BYTES * nulls > limit:
            raise too_large(limit)
        if text is not None:
            file.write(line)
            digest.update(line)
            documents, characters = documents + 1, characters + len(text)
            blank = blank and not text.strip()
    return _Written(size, documents, characters, nulls, blank, digest.hexdigest())


def _line(text: str, row: str) -> bytes:
    if "\0" in text:
        raise IntakeError("text_nul", f"{row} holds a NUL character.", "/hub/text_field")
    try:
        line = json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError as error:
        raise IntakeError("invalid_unicode", f"{row} holds half a surrogate pair.", "/hub/text_field") from error
    if len(line) > MAX_LINE_BYTES:
        raise IntakeError("line_too_long", f"{row} is longer than {MAX_LINE_BYTES} bytes.", "/hub/text_field")
    return line


def _cards(repo: HubRepo, commit: str, tree: dict[str, HubFile]) -> list[CardConfig]:
    if CARD not in tree:
        return []
    if tree[CARD].bytes > CARD_BYTES:
        raise IntakeError("dataset_card_invalid", f"The dataset's {CARD} is too large.", "/hub/id")
    return read_card(repo.download(commit, CARD, tree[CARD], repo.context.scratch / "hub"))


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
        "No Parquet, JSON-lines or text files of this split were found, and the hub keeps no Parquet copy of the "
        "revision. Code in a dataset's repository is never run; upload the text instead.",
        "/hub/split",
    )
