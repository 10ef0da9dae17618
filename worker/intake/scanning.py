"""The scan of a model folder in an isolated child: JSON of strangers takes many times its size to be read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from worker.intake.context import Context
from worker.intake.licence import Licence
from worker.intake.scan import Weights
from worker.isolation import Limits, run_isolated
from worker.model_files.config import Description
from worker.model_files.safetensors_header import Entry

SCAN: Final = "worker.intake.scan"


def small_files_of(files: Mapping[str, Path], context: Context) -> tuple[Description, Licence | None]:
    """See `scan.scan_small_files` and `scan.scan_card`; what they warn of is noted."""
    answer = _ask("small", "the model's configuration, tokenizer and card", files, context)
    _note(answer, context)
    return Description(**answer["description"]), answer["license"]


def weights_of(files: Mapping[str, Path], context: Context) -> Weights:
    """See `scan.scan_weights`; what it warns of is noted."""
    answer = _ask("weights", "the headers of the weights", files, context)
    _note(answer, context)
    entries = answer["tensors"].items()
    return Weights(
        {name: Entry(dtype, tuple(shape), start, size) for name, (dtype, shape, start, size) in entries}
    )


def _note(answer: Mapping[str, Any], context: Context) -> None:
    for said in answer["warnings"]:
        context.warn(said["code"], said["message"], **said["data"])


def _ask(step: str, what: str, files: Mapping[str, Path], context: Context) -> dict[str, Any]:
    workspace = context.scratch / f"scan-{step}"
    workspace.mkdir(mode=0o700)
    settings = context.settings
    return run_isolated(
        SCAN,
        {"step": step, "files": {name: str(path) for name, path in files.items()}},
        what=what,
        workspace=workspace,
        readable=[path.resolve() for path in files.values()],
        limits=Limits.of_reader(settings.child_memory_bytes, settings.child_seconds, threads=1),
        check=context.check,
    )
