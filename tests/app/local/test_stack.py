"""The whole stack, as `secateur up` starts it, with a job on a tiny model; killed, started again, stopped.

Slow: only all processes together show what is left when one of them is killed.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from app.local.errors import StartError, StateError
from app.local.ports import LOOPBACK, free_ports
from app.local.stack import Stack
from secateur import Client
from secateur.config import find_config
from tests.tiny import make_tiny_llama, text

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]


QUICK = {"SECATEUR_HEARTBEAT_SECONDS": "0.5", "SECATEUR_LEASE_SECONDS": "4", "SECATEUR_REAPER_SECONDS": "0.5"}
"""A killed worker's job is found soon."""


class Up:
    """`secateur up` as a process."""

    def __init__(self, state: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "secateur.cli", "up", "--state", str(state), *arguments]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, env={**os.environ, **QUICK}
        )
        self.lines: list[str] = []

    def wait_until_announced(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "Ctrl-C stops it" in line:
                return
        raise AssertionError("".join(self.lines))

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A model root with a tiny model, and two texts."""
    make_tiny_llama(tmp_path / "models" / "tiny")
    (tmp_path / "calibration.txt").write_text(text(20_000, seed=1))
    (tmp_path / "evaluation.txt").write_text(text(2_000, seed=2))
    return tmp_path


@pytest.fixture
def up(root: Path) -> Iterator[Up]:
    process = Up(root / "state", "--model-root", str(root / "models"))
    yield process
    process.process.kill()
    process.process.communicate()


def _client(state: Path) -> Client:
    config = find_config(None, None, state)
    return Client(config.url, config.key)


def _submit(client: Client, root: Path, samples: int) -> str:
    model = client.wait_for_model(client.add_model("tiny", {"type": "folder", "path": "tiny"})["id"], timeout=60)
    assert model["state"] == "ready", model["error"]
    calibration = client.upload_dataset(root / "calibration.txt")
    evaluation = client.upload_dataset(root / "evaluation.txt")
    spec = {
        "model": model["id"],
        "method": {"name": "copal", "weight_update": "admm"},
        "sparsity": {"target": 0.5},
        "domains": [
            {
                "name": "garden",
                "dataset": calibration["id"],
                "calibration": {"samples": samples, "sequence_length": 64},
                "evaluation": evaluation["id"],
            }
        ],
        "evaluation": {"sequence_length": 64, "max_windows": 4},
    }
    return str(client.submit(spec)["id"])


def _wait_for_engine(up: Up) -> None:
    deadline = time.monotonic() + 60
    while not any("worker.engine" in " ".join(process.cmdline()) for process in _living(up.family())):
        assert time.monotonic() < deadline
        os.sched_yield()


def _wait_for_attempt(client: Client, job: str, number: int) -> None:
    deadline = time.monotonic() + 60
    while client.job(job)["attempts"] < number:
        assert time.monotonic() < deadline
        os.sched_yield()


def _assert_gone(family: list[psutil.Process]) -> None:
    """The kernel ends grandchildren a moment after their parents."""
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [process.cmdline() for process in alive] == []


def _living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != "zombie"]


def test_kill_of_the_supervisor_leaves_nothing_and_loses_nothing(up: Up, root: Path) -> None:
    state = root / "state"
    up.wait_until_announced()
    key = (state / "key").read_text()
    assert key.strip() not in "".join(up.lines)
    second = subprocess.run(
        [sys.executable, "-m", "secateur.cli", "up", "--state", str(state)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert second.returncode == 1
    assert "already running" in second.stderr
    client = _client(state)
    job = _submit(client, root, samples=16_384)
    _wait_for_engine(up)
    family = up.family()
    up.process.kill()
    up.process.wait()
    _assert_gone(family)

    # The same key, the same data, and the job is taken up again without help.
    others = psutil.Process().children(recursive=True)
    with Stack(state, model_roots=[root / "models"], environment=QUICK) as stack:
        assert stack.key == key.strip()
        assert client.url == stack.url
        _wait_for_attempt(client, job, 2)
        client.cancel(job)
        assert client.wait(job, every=0.1, timeout=120)["state"] == "cancelled"
        family = set(psutil.Process().children(recursive=True)) - set(others)
    _assert_gone(family)
    with pytest.raises(ProcessLookupError):
        os.kill(up.process.pid, 0)


def test_stack_prunes_and_stops_on_a_signal(up: Up, root: Path) -> None:
    up.wait_until_announced()
    client = _client(root / "state")
    job = client.wait(_submit(client, root, samples=8), every=0.1, timeout=120)
    assert job["state"] == "succeeded", job["failure"]
    client.download(job["id"], root / "pruned")
    assert client.verify(job["id"], root / "pruned") == []
    assert client.evaluation(job["id"])["rows"][-1]["perplexity"]["garden"] > 1

    # A crashed part comes back.
    api = next(process for process in up.family() if "app.serve" in " ".join(process.cmdline()))
    api.kill()
    assert client.job(job["id"])["state"] == "succeeded"

    family = up.family()
    up.process.send_signal(signal.SIGTERM)
    _, said = up.process.communicate(timeout=60)
    assert up.process.returncode == 0, said
    assert "stopped" in said
    assert "api ended with code -9" in said
    _assert_gone(family)


def test_taken_port_is_refused_when_it_was_asked_for(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    with socket.create_server((LOOPBACK, port)), pytest.raises(StartError, match=f"port {port} of"):
        Stack(tmp_path / "state", port=port).start()


def test_missing_model_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no folder"):
        Stack(tmp_path / "state", model_roots=[tmp_path / "nowhere"]).start()
