"""What the settings of a job switch on a GPU, and put back."""

import warnings
from operator import attrgetter

import pytest
import torch
from torch.utils import deterministic

from worker.pruning.errors import SpecError
from worker.pruning.runtime.numerics import CUDA_SETTINGS, flags, pick_device, torch_settings, without_order

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def switched() -> dict[str, object]:
    return {
        **{name: attrgetter(name)(torch.backends) for name in CUDA_SETTINGS},
        "mode": torch.get_deterministic_debug_mode(),
        "cudnn attention": torch.backends.cuda.cudnn_sdp_enabled(),
        "plain attention": torch.backends.cuda.math_sdp_enabled(),
        "fill": deterministic.fill_uninitialized_memory,
        "products": torch.get_float32_matmul_precision(),
    }


def test_a_gpu_s_job_switches_what_decides_its_sums_and_puts_it_back() -> None:
    before = switched()
    with torch_settings(1, device=CUDA):
        during = switched()
    assert switched() == before
    assert during == {**CUDA_SETTINGS, "mode": 1, "fill": False, "products": "highest"} | {
        "cudnn attention": False,
        "plain attention": True,
    }
    assert {name: flags(CUDA)[name] for name in CUDA_SETTINGS} == {n: str(v) for n, v in CUDA_SETTINGS.items()}


def test_a_cpu_s_job_switches_none_of_it() -> None:
    before = switched()
    with torch_settings(1, device=CPU):
        assert switched() == before


def test_an_operation_without_a_fixed_order_is_noticed_once_a_job() -> None:
    for _ in range(2):  # also in a process that has run one before
        with torch_settings(1, device=CUDA):
            assert not without_order
            for name in ("cumsum_cuda_kernel", "kthvalue CUDA", "kthvalue CUDA"):
                warnings.warn(f"{name} does not have a deterministic implementation, but you set", stacklevel=1)
            assert without_order == {"cumsum_cuda_kernel", "kthvalue CUDA"}


def test_a_gpu_that_was_begun_without_a_repeatable_workspace_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(SpecError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8") as refused:
        pick_device("auto")
    assert refused.value.field == "/device"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert pick_device("auto").type == "cuda"
