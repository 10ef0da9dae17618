"""Clients that others' generators make of the OpenAPI document: without a warning, and one of them drives a job.

Slow: generators are programs of their own, installed with what they pin; only they tell what they can read.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.settings import Settings
from app.storage import ObjectStore
from app.tables.jobs import Job
from tests import tiny
from tests.app.conftest import MakeKey
from tests.jobs import CALIBRATION, make_dataset, make_model
from tests.worker.harness import SCRIPTED, wait_until
from worker.attempt import run_jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
HERE = Path(__file__).parent
OPTIONS = ("-o", "api.ts", "--default-non-nullable=false")
"""A field of a request that has a default may be left out."""
USE = """
import type { components, paths } from "./api";
type Event = components["schemas"]["EventRead"];
type Body = paths["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"];
export function next(job: components["schemas"]["JobRead"], event: Event): string {
  if (event.type === "evaluated") return `${event.data.domain}: ${event.data.perplexity.toFixed(2)}`;
  return `${job.state} ${job.spec.method.name} ${job.progress?.stage ?? 0}`;
}
export const body: Body = {
  model: "mdl_1",
  method: { name: "copal" },
  sparsity: { target: 0.5 },
  domains: [{ name: "law", dataset: "ds_1" }],
};
"""


def run(*command: str | Path, at: Path, **environment: str) -> str:
    """What a program says, which must end well."""
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def document(application: tuple[Any, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(httpx.get(f"{application[1]}/openapi.json", trust_env=False, timeout=60).text)
    return path


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the generator."""
    folder = tmp_path_factory.mktemp("generator")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", HERE / "requirements.txt", at=HERE)
    return python


def test_a_generated_python_client_submits_polls_and_downloads(
    python: Path,
    document: Path,
    service: str,
    project: str,
    make_key: MakeKey,
    session: Session,
    store: ObjectStore,
    settings: Settings,
    tmp_path: Path,
) -> None:
    generate = (python.parent / "openapi-python-client", "generate", "--path", document)
    options = ("--meta", "none", "--output-path", tmp_path / "made_client", "--fail-on-warning")
    said = run(*generate, *options, at=tmp_path, PATH=f"{python.parent}{os.pathsep}{os.environ['PATH']}")
    assert "WARNING" not in said.upper(), said
    texts = [make_dataset(session, project, tiny.text(800, seed), store) for seed in range(2)]
    domain = {"name": "d0", "dataset": texts[0], "evaluation": texts[1], "calibration": CALIBRATION}
    body = {"model": make_model(session, project, tiny.make_tiny_llama(tmp_path / "tiny"), store)}
    body |= {"method": {"name": "wanda"}, "sparsity": {"target": 0.5}, "domains": [domain]}
    session.commit()
    words = (service, make_key(), json.dumps(body), str(tmp_path / "pruned"))
    where = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [python, HERE / "drive.py", *words]
    with subprocess.Popen(command, env=where, stdout=subprocess.PIPE, text=True) as platform:
        assert platform.stdout is not None
        assert platform.stdout.readline().startswith("job_")
        wait_until(lambda: session.scalar(select(Job.id)) is not None)
        assert run_jobs(settings, "here", SCRIPTED) == 1
        platform.wait(120)
    assert platform.returncode == 0
    assert (tmp_path / "pruned" / "report.json").read_text() == "{}"


def test_generated_typescript_types_are_sound(document: Path, tmp_path: Path) -> None:
    """Made and compiled by programs that the wheel of Node.js brings up."""
    for name in ("package.json", "package-lock.json"):
        (tmp_path / name).write_text((HERE / name).read_text())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run("npm", "ci", "--no-audit", "--no-fund", at=tmp_path, PATH=path)
    said = run("npx", "--no-install", "openapi-typescript", document, *OPTIONS, at=tmp_path, PATH=path)
    assert "warn" not in said.lower(), said
    (tmp_path / "use.ts").write_text(USE)
    run("npx", "--no-install", "tsc", "--noEmit", "--strict", "use.ts", "api.ts", at=tmp_path, PATH=path)
