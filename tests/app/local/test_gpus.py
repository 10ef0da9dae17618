"""One worker a GPU, each by its UUID."""

import os
from pathlib import Path

import pytest

from app.local import gpus
from app.local.gpus import visible, worker_environments
from app.local.services import Services
from app.local.state import StateFolder

FOUR = ["GPU-aa10", "GPU-ab20", "GPU-c", "GPU-d"]


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        (None, FOUR),
        ("", []),
        ("-1", []),
        ("2,0", ["GPU-c", "GPU-aa10"]),
        ("GPU-ab,3", ["GPU-ab20", "GPU-d"]),
        ("0,7,1", ["GPU-aa10"]),
        ("GPU-a,1", []),
        ("1,1,2", ["GPU-ab20"]),
        (" 1 , 2 ", ["GPU-ab20", "GPU-c"]),
        ("NoDevFiles", []),
    ],
)
def test_what_cuda_sees_is_read_as_cuda_does(chosen: str | None, left: list[str]) -> None:
    assert visible(FOUR, chosen) == left


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver's tool that lists four GPUs."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(FOUR) + "\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    return tool


def test_each_gpu_has_a_worker_and_its_part_of_the_machine(
    driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    each = worker_environments({})
    assert [one["CUDA_VISIBLE_DEVICES"] for one in each] == FOUR
    assert {(one["SECATEUR_DEVICE"], one["SECATEUR_THREADS"]) for one in each} == {("cuda", "2")}
    total = sum(int(one["SECATEUR_ENGINE_MEMORY_BYTES"]) for one in each)
    assert 0 < total < gpus._memory_bytes()
    state = StateFolder(tmp_path / "state")
    state.lock()
    try:
        children = Services(state, {"SECATEUR_THREADS": "3"}).workers()
    finally:
        state.unlock()
    assert [child.name for child in children] == [
        *(f"worker-gpu-{number}" for number in range(4)), "worker-cpu", "worker-plan",
    ]  # fmt: skip
    assert len({child.command[child.command.index("-n") + 1] for child in children}) == 6
    assert len({child.log for child in children}) == 6
    for child, uuid in zip(children, FOUR, strict=False):
        assert (child.environment["CUDA_VISIBLE_DEVICES"], child.environment["SECATEUR_THREADS"]) == (uuid, "3")
    assert "CUDA_VISIBLE_DEVICES" not in children[4].environment


@pytest.mark.parametrize(
    "environment",
    [{"SECATEUR_DEVICE": "cpu"}, {"SECATEUR_DEVICE": "cuda:1"}, {"CUDA_VISIBLE_DEVICES": "2"}],
)
def test_where_one_device_is_named_there_is_one_worker(driver: Path, environment: dict[str, str]) -> None:
    assert worker_environments(environment) == [{}]


def test_a_driver_that_fails_is_not_used(driver: Path) -> None:
    driver.write_text("#!/bin/sh\necho GPU-x\nexit 9\n")
    assert worker_environments({}) == [{}]
