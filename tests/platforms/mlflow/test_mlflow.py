"""Jobs logged to a real server of MLflow, which with its client is in an environment of its own.

Slow: only the server tells what it takes, keeps and shows.
"""

import json
import os
import socket
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from secateur.pictures import PICTURES
from tests.platforms.conftest import Platform
from tests.snippets import ROOT, snippet
from tests.worker.harness import process, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")
NOT_REACHED: Final = "No matching distribution found"
"""What pip says where PyPI is not reached, among others: whether it is, is asked of it then."""
COMMAND: Final = "from secateur.cli import main; main()"


def install(python: Path) -> None:
    """Skips the test where PyPI is not reached; every other fault is one."""
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "--quiet"]
    packages = ["install", "--no-deps", "--no-compile", "-r", REQUIREMENTS]
    done = subprocess.run([*pip, *packages], capture_output=True, text=True)
    if done.returncode == 0:
        return
    anything = subprocess.run([*pip, "download", "--no-deps", "--dest", python.parent, "six"], capture_output=True)
    if NOT_REACHED in done.stderr and anything.returncode != 0 and "CI" not in os.environ:
        pytest.skip("PyPI, which MLflow's server is installed from, is not reachable")
    pytest.fail(done.stderr)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with MLflow, and with our client's dependencies."""
    folder = tmp_path_factory.mktemp("mlflow")
    venv.create(folder)
    install(folder / "bin" / "python")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def server(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of MLflow's server, with a database and a folder for artifacts that it serves itself."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    options += [
        "--backend-store-uri",
        f"sqlite:///{folder}/runs.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    command = [str(python), "-m", "mlflow", "server", *options]
    # Jobs of the server's own are for language models, and need more packages.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true", "NO_PROXY": "*"}
    with process(command, environment, folder / "log"):
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, trust_env=False) as client:
            wait_until(lambda: _is_up(client), 240)
        yield url


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def shell(python: Path, server: str, platform: Platform, tmp_path: Path) -> Callable[[str], str]:
    """Runs Python code with both servers in its environment: what it prints."""
    environment = {"MLFLOW_TRACKING_URI": server, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}

    def run(code: str, *arguments: str) -> str:
        given = os.environ | platform.variables | environment
        done = subprocess.run(
            [python, "-c", code, *arguments], env=given, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


class Tracking:
    """What the server shows, asked over its own API."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=f"{url}/api/2.0/mlflow", trust_env=False, timeout=60)

    def get(self, path: str, /, **query: str) -> dict[str, Any]:
        answer = self._client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        answer = self._client.post("/runs/search", json={"experiment_ids": [experiment]})
        return list(answer.json().get("runs", []))

    def run(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/runs/get", run_id=id)["run"]
        return found

    def history(self, run: str, metric: str) -> list[tuple[int, float]]:
        found = self.get("/metrics/get-history", run_id=run, metric_key=metric)["metrics"]
        return sorted((int(each["step"]), each["value"]) for each in found)

    def files(self, run: str, folder: str = "") -> set[str]:
        listed = self.get("/artifacts/list", run_id=run, path=folder).get("files", [])
        return {each["path"] for each in listed}


@pytest.fixture
def tracking(server: str) -> Tracking:
    return Tracking(server)


def named(rows: list[dict[str, str]]) -> dict[str, Any]:
    return {row["key"]: row["value"] for row in rows}


@pytest.mark.usefixtures("worker")
def test_a_job_is_one_run_with_all_it_came_to(
    platform: Platform, shell: Callable[..., str], tracking: Tracking
) -> None:
    with platform.client() as client:
        spec = platform.spec(labels={"team": "search"}, gate={"max_bwt": 0.5}, effort="fast")
        job = client.submit(spec)["id"]

        def log(*options: str) -> dict[str, str]:
            arguments = ("log-mlflow", job, "--experiment", "pruning", "--json", *options)
            found: dict[str, str] = json.loads(shell(COMMAND, *arguments))
            return found

        first = log()
        early = tracking.run(first["run_id"])
        assert early["info"]["status"] in ("RUNNING", "FAILED")
        ended = client.wait(job)
        assert ended["failure"]["code"] == "gate_failed"
        assert log("--artifact") == log() == first
        domains, manifest = ended["spec"]["domains"], client.manifest(job)
        sha256 = client.dataset(domains[0]["dataset"])["sha256"]
    run_id = first["run_id"]
    assert [run["info"]["run_id"] for run in tracking.runs(first["experiment_id"])] == [run_id]
    run = tracking.run(run_id)
    assert (run["info"]["status"], run["info"]["run_name"]) == ("FAILED", job)
    metrics, params, tags = (named(run["data"][kind]) for kind in ("metrics", "params", "tags"))
    assert tracking.history(run_id, "perplexity/d0") == [(0, 10.0), (1, 11.0), (2, 12.0)]
    assert tracking.history(run_id, "ratio/d0") == [(0, 1.0), (1, 1.1), (2, 1.2)]
    assert tracking.history(run_id, "stage/sparsity") == [(0, 0.5), (1, 0.5)]
    assert tracking.history(run_id, "bwt") == [(0, 1.0)]
    assert (metrics["mean_perplexity"], metrics["sparsity"]) == (12.0, 0.5)
    assert (params["method.name"], params["sparsity.target"], params["effort"]) == ("wanda", "0.5", "fast")
    assert params["domains.0.calibration.seed"] == "0"
    assert (params["domains.0.dataset_sha256"], params["spec_digest"]) == (sha256, ended["spec_digest"])
    assert (tags["secateur.job"], tags["label.team"], tags["secateur.failure"]) == (job, "search", "gate_failed")
    assert tags["secateur.manifest_digest"] == manifest["digest"]
    assert tags["secateur.artifact"] == f"{platform.url}/v1/jobs/{job}/artifacts"
    assert tracking.files(run_id) == {"artifact", "evaluation.json", "figures", "job.json", "manifest.json"}
    drawn = {f"figures/{name}.png" for name, picture in PICTURES.items() if not picture.of_several}
    assert tracking.files(run_id, "figures") == drawn
    assert "artifact/report.json" in tracking.files(run_id, "artifact")


@pytest.mark.usefixtures("worker")
def test_the_pages_lines_log_a_job(platform: Platform, shell: Callable[..., str], tracking: Tracking) -> None:
    with platform.client() as client:
        job = client.submit(platform.spec())["id"]
        assert client.wait(job)["state"] == "succeeded"
    run_id = shell(snippet("platforms.md", "MLflow/2")).splitlines()[-1]  # MLflow has printed its address before
    assert named(tracking.run(run_id)["data"]["tags"])["secateur.job"] == job
    (line,) = (each for each in snippet("platforms.md", "MLflow").splitlines() if each.startswith("secateur "))
    assert run_id in shell(COMMAND, *line.replace("job_…", job).split()[1:])


def test_a_missing_client_or_server_is_said_in_words(shell: Callable[..., str]) -> None:
    arguments = ("log-mlflow", f"job_{'0' * 32}")
    with pytest.raises(AssertionError, match="pip install 'secateur\\[mlflow\\]'"):
        shell(f"import sys; sys.modules['mlflow'] = None; {COMMAND}", *arguments)
    with pytest.raises(AssertionError, match="or MLFLOW_TRACKING_URI"):
        shell(f"import os; del os.environ['MLFLOW_TRACKING_URI']; {COMMAND}", *arguments)
