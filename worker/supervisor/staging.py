"""Staging: a claim's model, texts and checkpoint become files in the scratch folder, and its spec a request."""

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final

from app.jobs.delivery.checkpoint import Checkpoint
from app.jobs.delivery.claim import Base, Claim, SourceFile
from app.jobs.delivery.endings import Failure
from app.jobs.states import Reason
from app.settings import Settings
from app.storage import ObjectMissing, ObjectStore
from worker.supervisor.cache import Cache, fetch_checked
from worker.supervisor.scratch import Scratch
from worker.supervisor.situation import AttemptFailed, Situation, persist

BASE: Final = "base"
"""Where in the workspace the files of the job before lie; the engine only reads them."""


class Staging:
    """Brings files in. Every wait and every piece of a download looks at the situation."""

    def __init__(self, settings: Settings, store: ObjectStore, situation: Situation, scratch: Scratch) -> None:
        self._store = store
        self._situation = situation
        self._scratch = scratch
        self._cache = Cache(settings.work_dir, settings.cache_bytes, self._download, situation.pause)

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
    """The engine's request; see `worker.engine`."""
    request = {
        "job": claim.lease.job_id,
        "workspace": os.fspath(scratch.workspace),
        "model": os.fspath(scratch.model),
        "device": settings.device,
        "threads": checkpoint.threads or settings.threads,
        "hidden_bytes": settings.hidden_bytes,
        **translate(claim.spec, lambda dataset: _text(claim, dataset, scratch)),
    }
    if claim.base is not None:
        request["base"] = _base(claim, claim.base, scratch)
    if checkpoint.stages or checkpoint.blocks or checkpoint.evaluations:
        request["resume"] = {
            "stages": checkpoint.stages,
            "blocks": checkpoint.blocks,
            "evaluations": list(checkpoint.evaluations),
        }
    return request


def translate(spec: dict[str, Any], text: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """The parts of a request that are the spec's own, each dataset's id replaced by what `text` says of it."""

    def translate_domain(domain: dict[str, Any]) -> dict[str, Any]:
        evaluation = domain.get("evaluation")
        return {
            "name": domain["name"],
            "calibration": {**text(domain["dataset"]), **domain["calibration"]},
            "evaluation": None if evaluation is None else text(evaluation),
            "weight": domain.get("weight", 1.0),
        }

    return {
        "method": spec["method"],
        "sparsity": spec["sparsity"],
        "domains": [translate_domain(domain) for domain in spec["domains"]],
        "evaluation": spec["evaluation"],
        "numerics": spec.get("numerics", "fast"),
        "output": spec.get("output"),
    }


def _base(claim: Claim, base: Base, scratch: Scratch) -> dict[str, Any]:
    return {
        "folder": BASE,
        "stages": len(base.domains),
        "domains": list(base.domains),
        "evaluations": [
            {"domain": domain, "evaluation": _text(claim, dataset, scratch)}
            for domain, dataset in base.evaluations
        ],
    }


def _text(claim: Claim, dataset_id: str, scratch: Scratch) -> dict[str, Any]:
    source = claim.datasets[dataset_id]
    request = {"path": os.fspath(scratch.data / source.file.path), "format": source.format}
    if source.text_field is not None:
        request["text_field"] = source.text_field
    return request
