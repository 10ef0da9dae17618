"""Staging: a claim's model, texts and checkpoint become files in the scratch folder, and its spec a request."""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Final

from app.delivery.checkpoint import Checkpoint
from app.delivery.claim import Claim, SourceFile, SourceText
from app.delivery.endings import Failure
from app.settings import Settings
from app.storage import ObjectMissing, ObjectStore
from app.tables.states import Reason
from secateur.spec.job import Pruning
from worker.attempt.cache import Cache, fetch_checked
from worker.attempt.interrupts import AttemptFailed, Interrupts, persist
from worker.attempt.scratch import Scratch

BASE: Final = "base"
"""Where in the workspace the files of the job before lie; the engine only reads them."""
OPERATORS_FIELDS: Final = frozenset({"/workspace", "/device", "/threads", "/hidden_bytes"})
"""Of the request, what the worker's settings say and no owner of a job can mend."""


class Staging:
    """Brings files in. Every wait and every piece of a download looks at the situation."""

    def __init__(self, settings: Settings, store: ObjectStore, interrupts: Interrupts, scratch: Scratch) -> None:
        self._store = store
        self._situation = interrupts
        self._scratch = scratch
        self._cache = Cache(settings.work_dir, settings.cache_bytes, self._download, interrupts.pause)

    def bring(self, claim: Claim, checkpoint: Checkpoint) -> None:
        """Everything that the engine will read."""
        for file in claim.model_files:
            self._link(file, self._scratch.model)
        for text in claim.datasets.values():
            self._link(text.file, self._scratch.data)
        for file in claim.base.files if claim.base is not None else ():
            self._link(file, self._scratch.workspace / BASE)
        for file in checkpoint.files:
            # Copies of their own: the engine may write where they lie.
            target = safe_join(self._scratch.workspace, file.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._bring(lambda f=file, t=target: fetch_checked(f, t, self._download))

    def _link(self, file: SourceFile, folder: Path) -> None:
        target = safe_join(folder, file.path)
        self._bring(lambda: self._cache.link(file, target))

    def _bring(self, action: Any) -> None:
        try:
            persist(self._situation, action)
        except ObjectMissing as error:
            message = "An object that the job needs is no longer in the store."
            raise AttemptFailed(Failure(Reason.store_failed, message)) from error

    def _download(self, key: str, path: Path) -> None:
        self._store.download(key, path, self._situation.check)


def safe_join(folder: Path, relative: str) -> Path:
    """`folder/relative`. Raises ValueError for a path that leads anywhere else."""
    path = PurePosixPath(relative)
    if not relative or path.is_absolute() or ".." in path.parts or "\0" in relative:
        raise ValueError("not a relative path")
    return folder / path


def make_request(claim: Claim, checkpoint: Checkpoint, scratch: Scratch, settings: Settings) -> dict[str, Any]:
    """The engine's request, as `secateur.spec.request` has it."""
    request = {
        **computed(claim.spec),
        "workspace": os.fspath(scratch.workspace),
        "model": os.fspath(scratch.model),
        "texts": {id: _text(source, scratch) for id, source in claim.datasets.items()},
        "device": settings.device,
        "threads": checkpoint.threads or settings.threads,
        "hidden_bytes": settings.hidden_bytes,
        "resume": {
            "stages": checkpoint.stages,
            "blocks": checkpoint.blocks,
            "evaluations": list(checkpoint.evaluations),
        },
    }
    if claim.base is not None:
        request["base"] = base_of(claim.base.domains, claim.base.evaluations)
    return request


def computed(spec: dict[str, Any]) -> dict[str, Any]:
    """Of a job's spec, all that the engine computes by."""
    return {name: spec[name] for name in Pruning.model_fields if name in spec}


def base_of(domains: Iterable[str], evaluations: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """What a job continues. evaluations: domain and dataset of each earlier test text."""
    texts = [{"domain": domain, "dataset": dataset} for domain, dataset in evaluations]
    return {"folder": BASE, "domains": list(domains), "evaluations": texts}


def _text(source: SourceText, scratch: Scratch) -> dict[str, Any]:
    request = {"path": os.fspath(scratch.data / source.file.path), "format": source.format}
    if source.text_field is not None:
        request["text_field"] = source.text_field
    return request
