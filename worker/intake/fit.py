"""Asks the engine whether files are a model that it can prune, before they are registered as one."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from secateur.spec.records.pipe import Inspection
from worker.attempt.engine_question import MODULE_BYTES, ask_engine
from worker.attempt.redaction import Redactor
from worker.intake.context import Context
from worker.intake.scan import SHOWN, Weights
from worker.isolation import Limits
from worker.model_files.errors import IntakeError

READ_BYTES: Final = 16
"""Of each element while its tensor is read: as stored, in float32, and what is compared."""
BYTES_A_SECOND: Final = 20_000_000
"""What a slow machine reads at least."""


def check_fit(files: Mapping[str, Path], weights: Weights, context: Context) -> frozenset[str]:
    """Names of the tensors that the model does not need, which are said; they are stored with the others.

    files: name → local path of everything that was taken. The engine reads all of them, and says
    what is to be known of the model as its warnings.
    Raises IntakeError with the engine's reason.
    """
    model, workspace = context.scratch / "inspected", context.scratch / "inspection"
    for folder in (model, workspace):
        folder.mkdir(mode=0o700)
    for name, path in files.items():
        (model / name).symlink_to(path)
    request = {"inspect": os.fspath(model), "threads": context.settings.threads}
    redact = Redactor({"<model>": model, "<work>": context.settings.work_dir})
    try:
        answer = ask_engine(request, workspace, _limits(weights, context), context.check, redact, Inspection)
    except IntakeError as error:  # whose field is none of the model's request
        raise IntakeError(error.code, error.message) from None
    for said in answer.warnings:
        context.warn(said.code, said.message, **said.data)
    if unused := sorted(answer.unused):
        context.warn(
            "tensors_not_used",
            f"the model does not need {len(unused)} of the tensors; they are copied through as they are",
            tensors=unused[:SHOWN],
        )
    return frozenset(unused)


def _limits(weights: Weights, context: Context) -> Limits:
    """It makes a module of each tensor, and then reads one tensor after another."""
    settings, tensors = context.settings, weights.tensors.values()
    largest = max((entry.elements for entry in tensors), default=0)
    explained = len(tensors) * MODULE_BYTES + largest * READ_BYTES
    seconds = settings.child_seconds + sum(entry.bytes for entry in tensors) / BYTES_A_SECOND
    return Limits.of_reader(settings.child_memory_bytes + explained, seconds, settings.threads)
