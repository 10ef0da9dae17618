"""What a look at a GPU makes of what NVIDIA's libraries answer."""

from typing import Any

import pytest

from tests.worker.device.pretend_driver import GB, UUIDS, PretendCuda, PretendNvml
from worker.device import probe
from worker.device.finding import Finding, Health
from worker.device.probe import answer, examine


def look(cuda: Any, nvml: Any = None, device: str = "cuda:0") -> Finding:
    return examine(cuda, nvml, {"device": device, "foreign_bytes": 2 * GB}, "13.0")


@pytest.fixture(autouse=True)
def bare_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever GPU this machine may have."""
    monkeypatch.setattr(probe, "NODES", ())


@pytest.mark.parametrize("nvml", [None, PretendNvml(used=GB), PretendNvml(used=GB, mig=True)])
def test_a_sound_gpu_is_ready_and_left_as_it_was(nvml: Any) -> None:
    cuda = PretendCuda(gpus=2)
    found = look(cuda, nvml)
    assert found.health is Health.ready
    assert (found.uuid, found.name, found.total_bytes) == (str(UUIDS[0]), "Pretend 0", 80 * GB)
    assert (cuda.contexts, cuda.held) == (0, 0)
    assert Finding.of(found.as_json()) == found


def test_the_number_asked_for_is_looked_at() -> None:
    assert look(PretendCuda(gpus=2), device="cuda:1").uuid == str(UUIDS[1])
    for device in ("cuda", "auto"):
        assert look(PretendCuda(gpus=2), device=device).uuid == str(UUIDS[0])
    gone = look(PretendCuda(gpus=1), device="cuda:1")
    assert gone.health is Health.sick
    assert "finds 1 GPUs here" in gone.said


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("cuInit", 999),
        ("cuInit", 803),
        ("cuInit", 35),
        ("cuDeviceGetCount", 3),
        ("cuDeviceGet", 101),
        ("cuDeviceGetUuid_v2", 1),
        ("cuDevicePrimaryCtxRetain", 46),
        ("cuDevicePrimaryCtxRetain", 214),
        ("cuMemGetInfo_v2", 719),
        ("cuMemAlloc_v2", 700),
        ("cuMemsetD8_v2", 719),
        ("cuMemcpyDtoH_v2", 214),
    ],
)
def test_a_call_that_fails_makes_it_sick_and_is_named(call: str, code: int) -> None:
    for nvml in (None, PretendNvml()):
        cuda = PretendCuda(fails={call: code})
        found = look(cuda, nvml)
        assert found.health is Health.sick
        assert call in found.said
        assert f"({code})" in found.said
        assert cuda.contexts == 0


@pytest.mark.parametrize(("call", "code"), [("nvmlInit_v2", 18), ("nvmlDeviceGetMemoryInfo", 15)])
def test_a_lost_monitor_makes_it_sick(call: str, code: int) -> None:
    """18: the driver's halves are of different versions; 15: it has fallen off the bus."""
    found = look(PretendCuda(), PretendNvml(fails={call: code}))
    assert (found.health, found.said) == (Health.sick, f"{call}: nvml error {code} ({code})")


def test_a_call_that_the_driver_has_not_is_no_crash() -> None:
    class Old(PretendCuda):
        def __getattr__(self, name: str) -> Any:
            if name == "cuDeviceGetUuid_v2":
                raise AttributeError(name)
            return super().__getattr__(name)

    assert "too old" in look(Old()).said


def test_memory_that_forgets_is_sick() -> None:
    assert look(PretendCuda(forgets=True)).said == "it does not give back what it was told to write"
    assert look(PretendCuda(), PretendNvml(broken_rows=True)).health is Health.sick


def test_a_driver_older_than_torchs_cuda_is_told_with_the_fix() -> None:
    found = look(PretendCuda(serves=12080))
    assert found.health is Health.sick
    assert found.said == "its driver serves CUDA 12, and torch is built with 13.0: install a newer driver"


@pytest.mark.parametrize(
    ("cuda", "nvml"),
    [
        (PretendCuda(free=70 * GB), None),
        (PretendCuda(free=70 * GB), PretendNvml(used=10 * GB)),
        (PretendCuda(fails={"cuDevicePrimaryCtxRetain": 2}), PretendNvml(used=79 * GB)),
        (PretendCuda(fails={"cuMemAlloc_v2": 2}, free=0), PretendNvml(used=80 * GB)),
        (PretendCuda(fails={"cuDevicePrimaryCtxRetain": 2}), None),
    ],
)
def test_memory_that_others_hold_makes_it_shared(cuda: Any, nvml: Any) -> None:
    found = look(cuda, nvml)
    assert found.health is Health.shared
    assert found.others_bytes is not None
    assert found.others_bytes > 2 * GB
    assert found.uuid == str(UUIDS[0])


def test_who_holds_it_is_told_to_operators() -> None:
    found = look(PretendCuda(free=70 * GB), PretendNvml(used=10 * GB, holders={71: 8 * GB, 99: None}))
    assert found.said == "others hold 10.0 GB of its memory (process 71, process 99)"


def test_no_memory_for_a_context_while_nobody_holds_any_is_a_sick_gpu() -> None:
    found = look(PretendCuda(fails={"cuDevicePrimaryCtxRetain": 2}), PretendNvml(used=GB))
    assert found.health is Health.sick


@pytest.mark.parametrize("cuda", [None, PretendCuda(fails={"cuInit": 100}), PretendCuda(gpus=0)])
def test_no_gpu_is_absent_only_where_the_system_shows_none(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(cuda).health is Health.absent
    monkeypatch.setattr(probe, "NODES", ("/dev/null",))
    assert look(cuda).health is Health.sick
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert look(cuda).health is Health.absent


def test_a_torch_without_cuda_makes_auto_the_processor_and_a_wish_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "torch_cuda", lambda: None)
    found = [answer({"device": device, "foreign_bytes": 0}, print)["health"] for device in ("auto", "cuda:0")]
    assert found == [Health.absent, Health.sick]
