"""The engine's process, spoken to as the supervisor does.

Slow: isolation, exit codes and the pipe are those of a process.
"""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tests.tiny import make_tiny_llama, text
from worker.engine.failures import describe
from worker.isolation.environment import SOURCE_ROOT

pytestmark = pytest.mark.slow

FULL = os.strerror(errno.ENOSPC)


ENGINE = (sys.executable, "-m", "worker.engine")


def reports(request: Any, engine: Sequence[str] = ENGINE) -> list[dict[str, Any]]:
    """Everything that one engine says to a request, or to a line of bytes."""
    line = request if isinstance(request, bytes) else json.dumps(request).encode()
    reading, writing = os.pipe()
    command = [*engine, "--report-fd", str(writing), "--parent", str(os.getpid())]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[writing], env=environment) as process:
        os.close(writing)
        assert process.stdin is not None
        process.stdin.write(line + b"\n")
        process.stdin.flush()
        with os.fdopen(reading) as lines:
            return [json.loads(line) for line in lines]


def test_a_matrix_that_cannot_be_solved_is_named_to_its_owner(tmp_path: Path) -> None:
    """And it is theirs to mend: the same job would fail again."""
    folder = make_tiny_llama(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.v_proj.weight"] *= 1e22
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "a.txt").write_text(text(400))
    calibration = {"samples": 4, "sequence_length": 16}
    request = {
        "workspace": str(tmp_path),
        "model": str(folder),
        "threads": 1,
        "device": "cpu",
        "method": {"name": "wanda"},
        "sparsity": {"target": 0.5, "allocation": "uniform"},
        "domains": [{"name": "a", "dataset": "text", "calibration": calibration}],
        "texts": {"text": {"path": str(tmp_path / "a.txt")}},
    }
    last = reports(request)[-1]
    assert (last["type"], last["code"], last["cause"]) == ("failed", "ill_conditioned", "user")
    assert last["message"] == "model.layers.0.self_attn.o_proj.weight: its inputs are not finite"


WHOLE: dict[str, Any] = {
    "model": "model",
    "workspace": "work",
    "method": {"name": "wanda"},
    "sparsity": {"target": 0.5},
    "domains": [{"name": "a", "dataset": "text"}],
    "texts": {"text": {"path": "a.txt"}},
}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (b"{", ""),
        ([], ""),
        ({}, "/domains"),
        (WHOLE | {"threads": "two"}, "/threads"),
        (WHOLE | {"threads": 0}, "/threads"),
        ({"inspect": 5}, "/inspect"),
        ({"inspect": "model", "threads": "two"}, "/threads"),
        ({"inspect": "model", "thread": 2}, "/thread"),
    ],
    ids=str,
)
def test_a_request_that_is_none_is_refused_by_its_field(request_: Any, field: str) -> None:
    (told,) = reports(request_)
    assert (told["type"], told["code"], told["cause"]) == ("failed", "invalid_spec", "user")
    assert told["field"] == field


def test_an_error_is_known_again_at_its_place_alone() -> None:
    def fail(error: Exception) -> str:
        try:
            raise error
        except Exception as caught:
            return str(describe(caught).fingerprint)

    first = fail(KeyError("/scratch/job-1/17 at 0x7f00"))
    assert first == fail(KeyError("/scratch/job-2/18 at 0x7fab"))
    assert first != fail(ValueError("/scratch/job-1/17 at 0x7f00"))
    assert first != fail(KeyError("another"))
    with pytest.raises(KeyError) as elsewhere:
        raise KeyError("/scratch/job-1/17 at 0x7f00")
    assert first != describe(elsewhere.value).fingerprint


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.ENOSPC, FULL), "disk_full", "The worker's disk is full."),
        (SafetensorError(f"I/O error: {FULL} (os error 28)"), "disk_full", "The worker's disk is full."),
        (RuntimeError("cannot allocate memory"), "out_of_memory", "The engine ran out of memory."),
        (
            OSError(errno.EIO, "bad"),
            "engine_failed",
            "The engine stopped with an error of its own. Its operator finds it in the worker's log.",
        ),
    ],
)
def test_a_failure_is_told_in_words_its_owner_can_use(error: Exception, code: str, message: str) -> None:
    told = describe(error)
    assert (told.code, told.cause, told.message) == (code, "system", message)
    assert type(error).__name__ in told.detail
