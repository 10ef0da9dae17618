"""Staging: a claim's model, texts and checkpoint become files in the scratch folder, and its spec a request."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

from app.delivery.checkpoint import Checkpoint
from app.delivery.claim import Claim, SourceText
from app.delivery.endings import Failure
from app.delivery.object_keys import MODEL
from app.settings import Settings
from app.storage import ObjectMissing, ObjectStore
from app.tables.states import Reason
from secateur.packed import Base, unpack_file
from secateur.packed.folder import SUFFIX
from secateur.packed.format import PREFIX
from secateur.spec.job import Pruning
from worker.attempt.cache import Cache, bound_of, fetch_checked
from worker.attempt.engine_process import hidden_bytes
from worker.attempt.interrupts import AttemptFailed, Interrupts, persist
from worker.attempt.scratch import Scratch

BASE: Final = "base"
"""Where in the workspace the files of the job before lie; the engine only reads them."""
OPERATORS_FIELDS: Final = frozenset(
    {"/workspace", "/device", "/threads", "/hidden_bytes", "/machines", "/task_data"}
)
"""Of the request, what the worker's settings say and no owner of a job can mend."""


def bring(
    claim: Claim,
    checkpoint: Checkpoint,
    scratch: Scratch,
    settings: Settings,
    store: ObjectStore,
    interrupts: Interrupts,
) -> None:
    """Every file that the engine will read. Every wait and every piece of a download looks at the interrupts."""

    def download(key: str, path: Path) -> None:
        store.download(key, path, interrupts.check)

    def fetch(action: Callable[[], None]) -> None:
        try:
            persist(interrupts, action)
        except ObjectMissing as error:
            message = "An object that the job needs is no longer in the store."
            raise AttemptFailed(Failure(Reason.store_failed, message)) from error

    cache = Cache(settings.work_dir, bound_of(settings), download, interrupts.pause)
    base = claim.base.files if claim.base is not None else ()
    linked = [
        *((file, scratch.model) for file in claim.model_files),
        *((text.file, scratch.data) for text in claim.datasets.values()),
        *((file, scratch.workspace / BASE) for file in base),
    ]
    for file, folder in linked:
        fetch(partial(cache.link, file, safe_join(folder, file.path)))
    for file in checkpoint.files:
        # Copies of their own: the engine may write where they lie.
        target = safe_join(scratch.workspace, file.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch(partial(fetch_checked, file, target, download))
    _unpack(scratch.workspace / BASE / MODEL, scratch.model, interrupts.check)


def _unpack(folder: Path, model: Path, check: Callable[[], None]) -> None:
    """Make the dense files of packed ones in `folder`, the weights that a job continues, in their place.

    model: the folder of the dense model, for masks. Raises PackError.
    """
    packed = sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))
    base = Base.open(model, "base") if packed else None
    for path in packed:
        unpack_file(path, folder, base, check)
        path.unlink()


def safe_join(folder: Path, relative: str) -> Path:
    """`folder/relative`. Raises ValueError for a path that leads anywhere else."""
    path = PurePosixPath(relative)
    if not relative or path.is_absolute() or ".." in path.parts or "\0" in relative:
        raise ValueError("not a relative path")
    return folder / path


def make_request(
    claim: Claim, checkpoint: Checkpoint, scratch: Scratch, settings: Settings, device: str
) -> dict[str, Any]:
    """The engine's request, as `secateur.spec.request` has it. device: the worker's, resolved."""
    request = {
        **computed(claim.spec),
        "workspace": os.fspath(scratch.workspace),
        "model": os.fspath(scratch.model),
        "texts": {id: _text(source, scratch) for id, source in claim.datasets.items()},
        "device": device,
        "threads": checkpoint.threads or settings.threads,
        "hidden_bytes": hidden_bytes(settings),
        "machines": [claim.machine] if claim.machine is not None else [],
        "resume": {
            "stages": checkpoint.stages,
            "blocks": checkpoint.blocks,
            "evaluations": list(checkpoint.evaluations),
            "tasks": list(checkpoint.tasks),
            "broken": [each.model_dump() for each in checkpoint.broken],
        },
    }
    if settings.task_data is not None:
        request["task_data"] = os.fspath(settings.task_data)
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
