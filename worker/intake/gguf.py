"""Lets a GGUF file be converted in an isolated child process, so that torch never enters this one."""

from pathlib import Path
from typing import Any, Final

from worker.intake.context import Context
from worker.intake.gguf_header import GgufHeader, read_gguf_header
from worker.isolation import Limits, run_isolated

CONVERTER: Final = "worker.intake.gguf_convert"
WEIGHT_BYTES: Final = 12
"""Of each weight, while all are converted: in float32 as read, in float32 in the model, in the dtype asked for."""
ENTRY_BYTES: Final = 1_500
"""Of each key and element in the library's hands."""
WEIGHTS_A_SECOND: Final = 1_000_000
"""What a slow machine converts at least."""
WHAT: Final = "the GGUF file"
FIELD: Final = "/source/path"


def convert(path: Path, dtype: str, context: Context) -> Path:
    """Write the model of a GGUF file as a safetensors folder below the scratch folder.

    Raises IntakeError when the file cannot be converted, RuntimeError when the child died otherwise.
    """
    header = read_gguf_header(path)
    # The converter sees the file alone: no configuration or tokenizer that lies beside it is picked up.
    workspace = context.scratch / "conversion"
    source, target = workspace / "gguf", workspace / "converted"
    source.mkdir(parents=True)
    (source / "model.gguf").symlink_to(path)
    request = {
        "source": str(source),
        "file": "model.gguf",
        "target": str(target),
        "dtype": dtype,
        "threads": context.settings.threads,
        "room": context.room(),
    }
    answer: dict[str, Any] = run_isolated(
        CONVERTER,
        request,
        what=WHAT,
        workspace=workspace,
        readable=[path],
        limits=_limits(header, context),
        threads=context.settings.threads,
        field=FIELD,
        check=context.check,
    )
    for warning in answer["warnings"]:
        context.warn(warning["code"], warning["message"], **warning["data"])
    return target


def _limits(header: GgufHeader, context: Context) -> Limits:
    settings = context.settings
    explained = header.weights * WEIGHT_BYTES + header.entries * ENTRY_BYTES
    seconds = settings.child_seconds + header.weights / WEIGHTS_A_SECOND
    memory = settings.child_memory_bytes + explained
    return Limits.of_reader(memory, seconds, settings.threads, max(context.room(), 1))
