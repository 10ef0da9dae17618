"""How an engine tells failures apart for which the machine is to blame."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import make_tiny_llama, text
from tests.worker.engine.test_engine import reports
from tests.worker.test_machine_errors import SAID, accelerator
from worker.engine.failures import NO_DEVICE, NO_LOCKED, describe
from worker.machine_errors import Trouble

GB = 10**9
REQUEST = json.dumps({"device": "cuda:1"}).encode()
RAISING = (sys.executable, str(Path(__file__).with_name("raising_engine.py")))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU as torch tells of it: `free` of 80 GB; None for one that answers no more."""
    state: dict[str, Any] = {"free": GB // 10, "reserved": 70 * GB, "asked": []}

    def free_and_total(device: str) -> tuple[int, int]:
        state["asked"].append(device)
        if state["free"] is None:
            raise accelerator(719, "unspecified launch failure")
        return state["free"], 80 * GB

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", free_and_total)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: state["reserved"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 60 * GB)
    return state


@pytest.mark.parametrize("error", [*SAID[Trouble.device_memory], *SAID[Trouble.runtime_memory]], ids=str)
def test_a_full_gpu_is_told_with_its_figures_and_the_fix(gpu: dict[str, Any], error: BaseException) -> None:
    told = describe(error, REQUEST)
    assert (told.code, told.cause, told.fingerprint) == ("out_of_memory", "system", None)
    assert "of 80.0 GB the engine had reserved 70.0 GB, and 0.1 GB were free" in told.message
    assert "sequence_length" in told.message
    assert told.memory is not None
    assert told.memory.model_dump() == {
        "total_bytes": 80 * GB,
        "free_bytes": GB // 10,
        "reserved_bytes": 70 * GB,
        "allocated_bytes": 60 * GB,
    }
    assert set(gpu["asked"]) == {"cuda:1"}, "the device of the request, not the first one"
    assert str(error).split("\n")[0] in str(told.detail)


def test_the_same_words_while_the_gpu_has_room_are_about_the_hosts_locked_memory(gpu: dict[str, Any]) -> None:
    gpu["free"] = 60 * GB
    assert describe(accelerator(2, "out of memory"), REQUEST).message == NO_LOCKED
    # The allocator asks for nothing else, and a large piece may not fit into much that is free.
    allocator = describe(torch.OutOfMemoryError("CUDA out of memory."), REQUEST)
    assert "does not fit" in allocator.message


@pytest.mark.parametrize("error", SAID[Trouble.starved], ids=str)
def test_a_library_that_cannot_start_lacks_memory_where_little_is_free(
    gpu: dict[str, Any], error: BaseException
) -> None:
    assert describe(error, REQUEST).code == "out_of_memory"
    gpu["free"] = 40 * GB
    told = describe(error, REQUEST)
    assert (told.code, told.message) == ("device_unavailable", NO_DEVICE)
    assert told.fingerprint is not None, "it may be a program's mistake, which comes again"


@pytest.mark.parametrize("error", SAID[Trouble.device], ids=str)
def test_a_sick_gpu_is_told_as_such(gpu: dict[str, Any], error: BaseException) -> None:
    gpu["free"] = None
    told = describe(error, REQUEST)
    assert (told.code, told.message, told.fingerprint) == ("device_unavailable", NO_DEVICE, None)
    assert told.memory is None


@pytest.mark.parametrize("error", SAID[Trouble.fault], ids=str)
def test_a_fault_may_be_the_gpus_or_a_programs(gpu: dict[str, Any], error: BaseException) -> None:
    gpu["free"] = None
    told = describe(error, REQUEST)
    assert told.code == "device_unavailable"
    assert told.fingerprint is not None


@pytest.mark.parametrize("error", SAID[Trouble.host_memory], ids=str)
def test_want_of_host_memory_is_not_the_gpus(gpu: dict[str, Any], error: BaseException) -> None:
    gpu["free"] = 60 * GB
    told = describe(error, REQUEST)
    assert (told.code, told.message) == ("out_of_memory", "The engine ran out of memory.")


@pytest.mark.parametrize("request_", [b"", b"{", b"[]", b'{"device": 5}', b'{"device": "cpu"}'])
def test_no_request_hides_a_failure(request_: bytes) -> None:
    told = describe(torch.OutOfMemoryError("CUDA out of memory."), request_)
    assert (told.code, told.memory) == ("out_of_memory", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("allocator", "out_of_memory"),
        ("library", "out_of_memory"),
        ("context", "device_unavailable"),
        ("ecc", "device_unavailable"),
        ("launch", "device_unavailable"),
    ],
)
def test_an_engine_reports_it_from_inside_its_work(word: str, code: str, tmp_path: Path) -> None:
    """Slow: that no reader of models or solver on the way takes it for the model's fault shows only in a whole
    engine."""
    folder = make_tiny_llama(tmp_path / "model")
    (tmp_path / "a.txt").write_text(text(400))
    request = {
        "workspace": str(tmp_path),
        "model": str(folder),
        "threads": 1,
        "device": "cpu",
        "method": {"name": "wanda"},
        "sparsity": {"target": 0.5, "allocation": "uniform"},
        "domains": [{"name": "a", "dataset": "text", "calibration": {"samples": 4, "sequence_length": 16}}],
        "texts": {"text": {"path": str(tmp_path / "a.txt")}},
    }
    last = reports(request, [*RAISING, word])[-1]
    assert (last["type"], last["code"], last["cause"]) == ("failed", code, "system")
