"""A job through the whole house: HTTP, PostgreSQL, Valkey, Celery workers, engine, object store, download.

Slow: no part alone shows that the parts agree, from the request to the bytes of the download.
"""

import json
import os
import re
import signal
import tarfile
from collections.abc import Callable, Iterator
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
from tests import command_line, tiny
from tests.conftest import BUCKET
from tests.worker.harness import gone, wait_until
from worker.pruning import PruningJob, Silent
from worker.pruning import run as run_engine

QUICK = {
    "SECATEUR_HEARTBEAT_SECONDS": "0.5",
    "SECATEUR_LEASE_SECONDS": "5",
    "SECATEUR_REAPER_SECONDS": "0.5",
    "SECATEUR_DISPATCH_SECONDS": "0.1",
    "SECATEUR_NOTIFY_AGAIN_SECONDS": "3",
    "SECATEUR_THREADS": "1",
    "SECATEUR_DEVICE": "cpu",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BLOCKS = 8
CALIBRATION = {"samples": 48, "sequence_length": 64, "seed": 0}


Run = Callable[..., str]


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


@pytest.fixture
def run(finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command of the command line, which must end well: its output."""
    monkeypatch.setenv("SECATEUR_URL", finished.stack.url)
    monkeypatch.setenv("SECATEUR_API_KEY", finished.stack.key)

    def call(*arguments: str) -> str:
        code, out, err = command_line.call(arguments, monkeypatch, capsys)
        assert code == 0, err
        return out

    return call


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
    records = list(client.matrices(job, stage=1))
    assert len(records) == BLOCKS * 7
    assert all(counted[record["matrix"]] == record["zeros"] for record in records)
    assert sum(record["zeros"] for record in records) * 2 == sum(record["weights"] for record in records)


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
        wait_until(lambda: other.job(copy)["progress"] is not None, 180)
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


JOB = "job_…"
"""Stands for the finished job in a command below."""
READING = {
    f"get {JOB}": r"(?s)state +succeeded.*perplexity +[0-9.]+ dense → [0-9.]+ pruned.*manifest +[0-9a-f]{64}",
    f"watch {JOB}": r"state +succeeded",
    "ls": rf"{JOB} +succeeded +100% +copal +50% +mdl_",
    f"evaluation {JOB}": r"\(dense\) +[0-9.]+ +[0-9.]+\nfirst .*\nsecond +[0-9. ]+\nBWT -?[0-9.]+ ",
    f"matrices {JOB} --stage 1 --block 7": r"1 +second +7 +model\.layers\.7\.mlp\.down_proj\.weight +[0-9.]+% ",
    f"sensitivity {JOB} --domain first": r"0 +first +0 +model\.layers\.0\.self_attn\.q_proj\.weight +[0-9.e+-]+ ",
    f"sensitivity {JOB} --blocks --basis accumulated": r"1 +second +7 +7 +[0-9.e+-]+ +[0-9.]+%",
    f"compare {JOB} {JOB}": r"56 matrices: 56 with the same mask, 56 with the same weights\n$",
    f"lineage {JOB}": rf"\* {JOB} +succeeded +0\. first, 1\. second ",
    f"events {JOB}": r"^ +1 .* created .*\n(.*\n)*.* stage_finished +stage=1 .*\n(.*\n)*.*\bto=succeeded\b",
    f"attempts {JOB}": r" 1 +gpu0@\S+ +\S.* 20\d\d-.* succeeded",
    "models ls": r"mdl_\S+ +ready +llama +\S+ +[0-9.]+ M +[0-9.]+ .iB +tiny",
    "datasets ls": r"ds_\S+ +ready +txt +[0-9.]+ KiB +1 +second-test",
    f"verify {JOB} --stored": r"the store is as the manifest says\n",
}
"""What each command that only reads must say of the finished job; the API has no other answer to give it."""


@pytest.mark.parametrize("command", READING)
def test_a_reading_command_understands_the_service(command: str, finished: Finished, run: Run) -> None:
    said = run(*command.replace(JOB, finished.job).split())
    assert re.search(READING[command].replace(JOB, finished.job), said, re.M), said


def test_logs_are_those_of_the_service(finished: Finished, run: Run) -> None:
    lines = list(finished.client.logs(finished.job))
    assert len(run("logs", finished.job).splitlines()) == len(lines)
    assert json.loads(run("logs", finished.job, "--tail", "2", "--json")) == lines[-2:]
    assert len(run("logs", finished.job, "--tail", "2", "--follow").splitlines()) == len(lines[-2:])


def test_a_finished_spec_can_be_planned_again(finished: Finished, run: Run, tmp_path: Path) -> None:
    spec = finished.client.job(finished.job)["spec"]
    (tmp_path / "job.json").write_text(json.dumps(spec))
    planned = run("plan", str(tmp_path / "job.json"), "--matrices")
    assert f"{BLOCKS * 7} matrices" in planned
    assert "model.layers.7.mlp.down_proj.weight" in planned
    options = ["--model", "tiny", "--sparsity", "0.5", "--weight-update", "admm", "--samples", "48"]
    options += ["--domain", f"first={spec['domains'][0]['dataset']}", "--sequence-length", "64"]
    assert "sparsity    50.000%" in run("submit", *options, "--plan")
    assert len(list(finished.client.jobs())) == 1


def test_files_come_by_the_command_line_too(finished: Finished, run: Run, tmp_path: Path) -> None:
    assert "all as the manifest says" in run("download", finished.job, str(finished.folder))
    assert run("verify", finished.job, str(finished.folder)).endswith("is as the manifest says\n")
    run("sensitivity", finished.job, "--parquet", str(tmp_path / "history.parquet"))
    assert (tmp_path / "history.parquet").read_bytes()[:4] == b"PAR1"


def test_a_label_can_be_changed_from_the_command_line(finished: Finished, run: Run) -> None:
    run("change", finished.job, "--label", "team=search", "--label", "stage=done")
    run("change", finished.job, "--label", "stage=")
    assert json.loads(run("get", finished.job, "--json"))["labels"] == {"team": "search"}


def test_the_exported_state_is_a_base_for_the_engine_alone(finished: Finished, run: Run, tmp_path: Path) -> None:
    """As the README says it."""
    run("state", finished.job, str(tmp_path / "state.tar"))
    base = tmp_path / "workspace/base"
    with tarfile.open(tmp_path / "state.tar") as tar:
        tar.extractall(base, filter="data")
    (tmp_path / "third.txt").write_text(tiny.text(1500, seed=30))
    request = {
        "workspace": str(tmp_path / "workspace"),
        "model": str(finished.stack.state.models / "tiny"),
        "device": "cpu",
        "threads": 1,
        "method": {"name": "copal", "weight_update": "admm"},
        "sparsity": {"target": 0.5, "allocation": "uniform"},
        "domains": [{"name": "third", "dataset": "text", "calibration": CALIBRATION, "evaluation": "text"}],
        "texts": {"text": {"path": str(tmp_path / "third.txt")}},
        "evaluation": {"sequence_length": 64, "max_windows": 4},
    }
    lineage = [stage["domain"] for stage in json.loads((base / "state.json").read_text())["lineage"]]
    assert lineage == ["first", "second"]
    begin = {"folder": "base", "domains": lineage}
    done = run_engine(PruningJob.from_dict({**request, "base": begin}), Silent())
    report = json.loads((tmp_path / "workspace/report.json").read_text())
    assert report["lineage"] == {"first_stage": 2, "domains": ["first", "second", "third"]}
    assert done.summary.sparsity == 0.5
