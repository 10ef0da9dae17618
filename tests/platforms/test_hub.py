"""A job's model in a repository of a hub, by the lines of docs/platforms.md.

Slow: only a model that was pruned has weights to pack and a card that tells of them.
"""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from secateur.client import Client
from secateur.errors import SecateurError
from secateur.hub import _datasets, _only_its_own
from secateur.packed import unpack_folder
from tests.platforms.conftest import Platform
from tests.platforms.writable_hub import TOKEN, run_writable_hub
from tests.secateur.conftest import Reply, Run, ScriptedServer, job_document, run, scripted  # noqa: F401
from tests.snippets import snippet
from worker.attempt.engine_process import COMMAND

OFFLINE = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def metadata(card: bytes) -> Any:
    return yaml.safe_load(card.decode().split("---\n")[1])


@pytest.mark.slow
def test_the_pages_lines_publish_a_model_with_its_card(platform: Platform, tmp_path: Path) -> None:
    with platform.client() as client, platform.start_worker(COMMAND), run_writable_hub() as hub:
        job = client.submit(platform.spec(evaluation={"sequence_length": 32, "max_windows": 2}))["id"]
        assert client.wait(job, timeout=250)["state"] == "succeeded"
        files = {file["path"]: file["sha256"] for file in client.manifest(job)["files"]}
        lines = [each for each in snippet("platforms.md", "A hub").splitlines() if each.startswith("secateur ")]
        assert len(lines) == 2
        environment = os.environ | OFFLINE | {"HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}

        def call(line: str) -> str:
            command = ["bash", "-euo", "pipefail", "-c", line.replace("job_…", job)]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        published = [call(line) for line in lines]
        assert [path.name for path in (tmp_path / job).iterdir()] == ["model"], "what no hub needs stays"
        assert call(lines[0]) == published[0], "the same again changes nothing"
        repos = {id: repo for (_, id), repo in hub.repos.items()}
    first, second = repos["org/llama-50"], repos["org/llama-50-packed"]
    assert (first.private, second.private) == (True, True)
    there = first.branches["main"]
    model = {path.removeprefix("model/"): sha for path, sha in files.items() if path.startswith("model/")}
    assert set(there) == set(model) | {".gitattributes"}
    assert {name for name in model if hashlib.sha256(there[name]).hexdigest() != model[name]} == {"README.md"}
    found = metadata(there["README.md"])
    assert (found["license"], found["library_name"]) == ("apache-2.0", "transformers")
    assert {"pruned", "sparse", "wanda"} <= set(found["tags"])
    assert "| `d0` |" in there["README.md"].decode()
    small = second.branches["main"]
    assert metadata(small["README.md"])["library_name"] == "secateur"
    (tmp_path / "small").mkdir()
    for name, data in small.items():
        (tmp_path / "small" / name).write_bytes(data)
    (tmp_path / "small" / ".gitattributes").unlink()
    unpack_folder(tmp_path / "small", tmp_path / "again", None, lambda name: None)
    weights = [name for name in model if name.endswith(".safetensors")]
    assert all((tmp_path / "again" / name).read_bytes() == there[name] for name in weights)


def test_a_folder_with_files_of_something_else_is_refused(tmp_path: Path) -> None:
    own = {tmp_path / name for name in ("model.safetensors", "config.json")}
    for path in (*own, tmp_path / "README.md", tmp_path / ".model.safetensors.part"):
        path.touch()
    _only_its_own(own, tmp_path, "job_1")
    (tmp_path / "packed-model.safetensors").touch()
    with pytest.raises(SecateurError, match=r"packed-model\.safetensors, which is no file of job_1: name another"):
        _only_its_own(own, tmp_path, "job_1")


def test_a_dataset_that_is_gone_is_left_out_of_the_card(scripted: ScriptedServer) -> None:  # noqa: F811
    hub = {"id": "org/texts", "revision": "main"}
    scripted.script = [Reply.json({"hub": hub}), Reply.json({"code": "dataset_not_found"}, 404)]
    job = {"spec": {"domains": [{"dataset": "ds_1"}, {"dataset": "ds_2"}]}}
    with Client(scripted.url, "key") as client:
        assert _datasets(client, job) == ["org/texts"]


def test_a_job_that_has_not_succeeded_is_not_published(run: Run, scripted: ScriptedServer) -> None:  # noqa: F811
    scripted.script = [Reply.json(job_document("failed"))]
    code, _, err = run("publish", "job_1", "org/model")
    assert (code, "job_1 is failed" in err) == (1, True)
