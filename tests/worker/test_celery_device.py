"""What keeps a worker of jobs from starting: a GPU that is another's, or more than one job at a time on it.

Slow: a worker that does not start is a process that ends.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.scripted_probe import UUID
from worker.device.lock import DeviceLock

pytestmark = pytest.mark.slow

START = """
from types import SimpleNamespace
import worker.celery as workers
from app.settings import get_settings
from worker.attempt import DeviceGate
gate = DeviceGate(get_settings(), "tests.worker.scripted_probe")
workers.process_gate = lambda: gate
queues = SimpleNamespace(consume_from={QUEUE: None})
app = SimpleNamespace(amqp=SimpleNamespace(queues=queues))
workers._take_device(SimpleNamespace(app=app, concurrency=CONCURRENCY))
print("started with", gate.wanted)
"""


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Exit code, and all that was said."""

    def run(word: str, queue: str = "gpu", concurrency: int = 1) -> tuple[int, str]:
        (tmp_path / "word").write_text(word)
        gpu = {"SECATEUR_DEVICE": "cuda", "SECATEUR_GPU_LOCK_DIR": str(tmp_path), "CUDA_CACHE_PATH": str(tmp_path)}
        code = START.replace("QUEUE", repr(queue)).replace("CONCURRENCY", str(concurrency))
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, env={**os.environ, **environment, **gpu}, capture_output=True, text=True)
        return ended.returncode, ended.stdout + ended.stderr

    return run


def test_a_worker_whose_gpu_is_anothers_does_not_start_and_says_whose(
    start: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    with DeviceLock(tmp_path, UUID):
        code, said = start("ready")
        assert code == 1
        assert f"the GPU {UUID} is process {os.getpid()} on " in said
        assert "Traceback" not in said
        assert start("ready", queue="cpu") == (0, "started with cuda\n"), "it needs none"
    assert start("ready") == (0, "started with cuda:0\n")


def test_a_gpu_takes_one_job_at_a_time(start: Callable[..., tuple[int, str]]) -> None:
    code, said = start("ready", concurrency=2)
    assert code == 1
    assert "start its worker with `-c 1`" in said


@pytest.mark.parametrize("word", ["sick", "absent", "crash"])
def test_a_worker_with_a_sick_gpu_starts_and_waits_for_it(
    start: Callable[..., tuple[int, str]], word: str
) -> None:
    code, said = start(word)
    assert code == 0
    assert "the GPU is not ready" in said
    assert "started with cuda\n" in said, "and not with the processor"
