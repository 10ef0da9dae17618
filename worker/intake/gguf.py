"""Starts the conversion of a GGUF file in a child process, so that torch never enters this one."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from worker.attempt.engine_process import environment
from worker.intake.context import Context
from worker.model_files.errors import IntakeError

CONVERTER: Final = Path(__file__).with_name("gguf_convert.py")

_log = logging.getLogger(__name__)


def convert(path: Path, dtype: str, context: Context) -> Path:
    """Write the model of a GGUF file as a safetensors folder below the scratch folder.

    Raises IntakeError when the file cannot be converted, RuntimeError when the child died otherwise.
    """
    _check_magic(path)
    # The converter sees the file alone: no configuration or tokenizer that lies beside it is picked up.
    source, target = context.scratch / "gguf", context.scratch / "converted"
    source.mkdir()
    (source / "model.gguf").symlink_to(path)
    request = {
        "source": str(source),
        "file": "model.gguf",
        "target": str(target),
        "dtype": dtype,
        "threads": context.settings.threads,
        "room": context.room(),
        "parent": os.getpid(),
    }
    answer = _run_child(request, context)
    if error := answer.get("error"):
        raise IntakeError(error["code"], error["message"], "/source/path")
    for warning in answer["warnings"]:
        context.warn(warning["code"], warning["message"], **warning["data"])
    return target


def _check_magic(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] != b"GGUF" or int.from_bytes(head[4:], "little") not in (2, 3):
        raise IntakeError("gguf_unreadable", "This is not a GGUF file of version 2 or 3.", "/source/path")


def _run_child(request: dict[str, Any], context: Context) -> dict[str, Any]:
    log = context.scratch / "convert.log"
    with log.open("wb") as errors:
        child = subprocess.Popen(
            # By path and isolated: the child imports nothing from its folder.
            [sys.executable, "-I", str(CONVERTER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=context.scratch,
            env=environment(context.scratch, context.settings.threads),
            start_new_session=True,
        )
    with child:
        try:
            answer = _converse(child, json.dumps(request).encode(), context)
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        _log.error("GGUF conversion ended with %s: %s", child.returncode, _tail(log))
        raise RuntimeError(f"the conversion process ended with {child.returncode}")
    result: dict[str, Any] = json.loads(answer)
    if "error" in result:
        _log.info("GGUF conversion refused: %s", _tail(log))
    return result


def _converse(child: "subprocess.Popen[bytes]", request: bytes, context: Context) -> bytes:
    """Send the request and wait for the answer, looking twice a second whether to stop."""
    data: bytes | None = request
    while True:
        try:
            return child.communicate(data, timeout=0.5)[0]
        except subprocess.TimeoutExpired:
            data = None
            context.check()


def _tail(log: Path) -> str:
    return log.read_bytes()[-2000:].decode(errors="replace")
