"""A job through the whole house: HTTP, PostgreSQL, Valkey, Celery workers, engine, object store, download."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.local.seaweed import SeaweedServer
from app.local.stack import Stack
from secateur.client import Client
from tests import tiny
from tests.conftest import BUCKET
from tests.worker.house import gone, wait_until

QUICK = {
    "SECATEUR_HEARTBEAT_SECONDS": "0.5",
    "SECATEUR_LEASE_SECONDS": "5",
    "SECATEUR_REAPER_SECONDS": "0.5",
    "SECATEUR_DISPATCH_SECONDS": "0.1",
    "SECATEUR_RING_AGAIN_SECONDS": "3",
    "SECATEUR_THREADS": "1",
    "SECATEUR_DEVICE": "cpu",
}
pytestmark = pytest.mark.timeout(600)

BLOCKS = 8
CALIBRATION = {"samples": 48, "sequence_length": 64, "seed": 0}


@dataclass(frozen=True)
class Finished:
    """A job that is done, where it ran, and its download."""

    stack: Stack
    client: Client
    job: str
    folder: Path


@contextmanager
def service(state: Path, **environment: str) -> Iterator[tuple[Stack, Client]]:
    """A whole service with a tiny model in its model root."""
    tiny.make_tiny_llama(state / "models" / "tiny", blocks=BLOCKS, hidden=128)
    with Stack(state, environment=QUICK | environment) as stack, Client(stack.url, stack.key) as client:
        yield stack, client


def gpu_worker(state: Path) -> psutil.Process:
    """The GPU worker of the service in that state folder."""
    mine = (child for child in psutil.Process().children() if "gpu0@%h" in child.cmdline())
    return next(child for child in mine if Path(child.cwd()) == state)


def submit(client: Client, folder: Path, **changes: Any) -> str:
    """Register the model, upload two domains, post a continual job; its id."""
    model = client.add_model("tiny", {"type": "folder", "path": "tiny"})
    domains = []
    for number, name in enumerate(("first", "second")):
        paths = {"dataset": folder / f"{name}.txt", "evaluation": folder / f"{name}-test.txt"}
        for seed, path in enumerate(paths.values()):
            path.write_text(tiny.text(1500, seed=10 * number + seed))
        uploaded = {field: client.upload_dataset(path, name=path.stem)["id"] for field, path in paths.items()}
        domains.append({"name": name, "calibration": CALIBRATION, **uploaded})
    spec = {
        "model": model["id"],
        "method": {"name": "copal", "weight_update": "admm"},
        "sparsity": {"target": 0.5},
        "domains": domains,
        "evaluation": {"sequence_length": 64, "max_windows": 4},
    }
    return str(client.submit(spec | changes)["id"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """A job that ran undisturbed against a folder store, and its download."""
    folder = tmp_path_factory.mktemp("finished")
    with service(folder / "state") as (stack, client):
        job = submit(client, folder)
        assert client.wait(job, timeout=240, every=0.2)["state"] == "succeeded"
        client.download(job, folder / "pruned")
        yield Finished(stack, client, job, folder / "pruned")


def test_the_download_is_what_the_manifest_says(finished: Finished) -> None:
    client, job, folder = finished.client, finished.job, finished.folder
    assert client.verify(job, folder) == []
    assert client.manifest(job)["digest"] == client.job(job)["result"]["manifest_digest"]


def test_the_checkpoint_loads_and_generates(finished: Finished) -> None:
    folder = finished.folder
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    prompt = tokenizer("the gardener cuts", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert answer.shape[1] == prompt["input_ids"].shape[1] + 5


def test_counted_zeros_equal_the_report(finished: Finished) -> None:
    client, job, folder = finished.client, finished.job, finished.folder
    counted = {
        name: int((tensor == 0).sum())
        for shard in (folder / "model").glob("*.safetensors")
        for name, tensor in load_file(shard).items()
    }
    layers = list(client.layers(job, stage=1))
    assert len(layers) == BLOCKS * 7
    assert all(counted[layer["matrix"]] == layer["zeros"] for layer in layers)
    assert sum(layer["zeros"] for layer in layers) * 2 == sum(layer["weights"] for layer in layers)


def test_history_is_complete(finished: Finished) -> None:
    client, job = finished.client, finished.job
    evaluation = client.evaluation(job)
    assert [row["row"] for row in evaluation["rows"]] == [0, 1, 2]
    assert all(set(row["perplexity"]) == {"first", "second"} for row in evaluation["rows"])
    assert evaluation["bwt"] is not None
    assert [stage["state"] for stage in client.stages(job)] == ["done", "done"]
    assert len(list(client.sensitivity(job, domain="second"))) == BLOCKS * 7
    events = list(client.events(job))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["data"]["to"] == "succeeded"


def test_a_range_of_a_file_comes_from_the_middle(finished: Finished) -> None:
    path = "model/model-00001-of-00009.safetensors"
    url = f"{finished.stack.url}/v1/jobs/{finished.job}/artifacts/{path}"
    key = {"Authorization": f"Bearer {finished.stack.key}"}
    part = httpx.get(url, headers=key | {"Range": "bytes=100-199"})
    assert part.status_code == 206
    assert part.content == (finished.folder / path).read_bytes()[100:200]
    assert httpx.get(url).status_code == 401


def test_s3_and_folder_give_the_same_digest(finished: Finished, seaweed: SeaweedServer, tmp_path: Path) -> None:
    client, job = finished.client, finished.job
    s3 = {
        "SECATEUR_STORE_URL": f"s3://{BUCKET}/parity",
        "SECATEUR_S3_ENDPOINT": seaweed.url,
        "SECATEUR_S3_ACCESS_KEY_ID": seaweed.access_key,
        "SECATEUR_S3_SECRET_ACCESS_KEY": seaweed.secret_key,
    }
    with service(tmp_path / "state", **s3) as (_, other):
        copy = submit(other, tmp_path)
        assert other.wait(copy, timeout=240, every=0.2)["state"] == "succeeded"
        assert other.manifest(copy)["digest"] == client.manifest(job)["digest"]
        other.download(copy, tmp_path / "pruned")
        assert other.verify(copy, tmp_path / "pruned") == []


def test_a_killed_worker_group_costs_nothing_but_time(finished: Finished, tmp_path: Path) -> None:
    client, job = finished.client, finished.job
    with service(tmp_path / "state") as (_, other):
        copy = submit(other, tmp_path)
        wait_until(lambda: other.job(copy)["progress"] is not None)
        worker = gpu_worker(tmp_path / "state")
        family = worker.children(recursive=True)
        os.killpg(worker.pid, signal.SIGKILL)
        assert other.wait(copy, timeout=240, every=0.2)["state"] == "succeeded"
        assert gone(family)
        assert [attempt["outcome"] for attempt in other.attempts(copy)] == ["worker_lost", "succeeded"]
        assert other.manifest(copy)["digest"] == client.manifest(job)["digest"]


def test_logits_come_from_finite_weights(finished: Finished) -> None:
    folder = finished.folder
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
