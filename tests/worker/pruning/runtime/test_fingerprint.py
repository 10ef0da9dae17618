"""What is said of the device that computes."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from secateur.spec.job import Numerics
from worker.pruning.runtime import fingerprint as room
from worker.pruning.runtime.fingerprint import fingerprint, pinned, processor_model, processor_vendor


@pytest.fixture
def h100(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU as torch describes one."""
    properties = SimpleNamespace(name="H100", major=9, minor=0, total_memory=85 * 10**9, uuid="aa-bb")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda", 0)


def test_a_processor_is_told_by_model_instructions_and_threads() -> None:
    found = fingerprint(torch.device("cpu"))
    assert found.type == "cpu"
    assert found.capability == torch.backends.cpu.get_cpu_capability()
    assert found.threads == torch.get_num_threads()
    assert found.libraries["torch"] == torch.__version__
    assert (found.uuid, found.memory_bytes, found.precision) == (None, None, {})


def test_what_linux_says_of_a_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = tmp_path / "cpuinfo"
    said.write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n\nvendor_id\t: other\n")
    monkeypatch.setattr(room, "PROCESSORS", said)
    assert (processor_vendor(), processor_model()) == ("AuthenticAMD", "AMD EPYC")
    said.unlink()
    assert processor_vendor() == ""
    assert processor_model()


def test_a_gpu_is_told_by_itself_and_by_all_that_decides_its_bits(
    h100: torch.device, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    driver = tmp_path_factory.mktemp("proc") / "version"
    driver.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC 13.3.0\n"
    )
    monkeypatch.setattr(room, "DRIVER", driver)
    found = fingerprint(h100)
    assert (found.name, found.capability, found.uuid, found.driver) == ("H100", "9.0", "aa-bb", "580.65.06")
    assert (found.memory_bytes, found.cuda) == (85 * 10**9, "13.0")
    assert found.precision["cuda.matmul.allow_bf16_reduced_precision_reduction"] == "False"
    assert found.precision["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_driver_that_the_system_hides_is_not_known(h100: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "DRIVER", room.DRIVER.parent / "no" / "version")
    assert fingerprint(h100).driver is None


def test_a_report_does_not_say_which_of_equal_gpus_it_was(h100: torch.device) -> None:
    said = pinned(2, 4096, h100, "bfloat16", Numerics.fast)
    assert said["device"]["name"] == "H100"
    assert "uuid" not in said["device"]
