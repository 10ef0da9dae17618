"""What a process's environment must say before CUDA starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker import cuda_environment
from worker.isolation.environment import environment


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ({}, {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({"CUBLAS_WORKSPACE_CONFIG": ":16:8", "PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, {}),
        (
            {"CUBLAS_WORKSPACE_CONFIG": ":0:0", "PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"},
            {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
        ),
    ],
)
def test_results_repeat_and_an_operators_allocator_stays(given: dict[str, str], added: dict[str, str]) -> None:
    assert cuda_environment.missing(given) == added


def test_an_engines_environment_is_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (cuda_environment.WORKSPACE, *cuda_environment.ALLOCATORS):
        monkeypatch.delenv(name, raising=False)
    assert cuda_environment.missing(environment(tmp_path, 1)) == {}
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    assert environment(tmp_path, 1)["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"


def test_a_library_completes_its_own_before_it_asks_for_a_device() -> None:
    named = (cuda_environment.WORKSPACE, *cuda_environment.ALLOCATORS)
    bare = {name: value for name, value in os.environ.items() if name not in named}
    code = (
        "import os; from worker.pruning.runtime.numerics import pick_device; pick_device('auto'); "
        "from worker.cuda_environment import missing; assert missing(os.environ) == {}"
    )
    subprocess.run([sys.executable, "-c", code], env=bare, check=True)
