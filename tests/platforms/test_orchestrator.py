"""The tasks and flows of docs/platforms.md: they go on after a restart, and fail by the gate.

Slow: only processes that end in between show what goes on behind them. Prefect and Airflow are played by a few
lines: what is tested is what they would call, and how it is put together.
"""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.platforms.conftest import Platform
from tests.snippets import snippet

pytestmark = pytest.mark.slow

RUN = "scheduled__2026-05-04T00:00:00+00:00"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page's module is, as one that can be imported."""
    at = tmp_path / "flows"
    at.mkdir()
    (at / "prune_tasks.py").write_text(snippet("platforms.md", "An orchestrator"))
    monkeypatch.syspath_prepend(at)
    monkeypatch.delitem(sys.modules, "prune_tasks", raising=False)
    return at


def task(folder: Path, name: str, *arguments: Any) -> Any:
    """What a task returns that runs in a process of its own, or the name of the exception that ends it."""
    code = (
        "import json, sys, prune_tasks\n"
        "name, *arguments = json.loads(sys.argv[1])\n"
        "try: said = getattr(prune_tasks, name)(*arguments)\n"
        "except (prune_tasks.NotFinished, prune_tasks.NotGood) as error: said = type(error).__name__\n"
        "print(json.dumps(said))"
    )
    command = [sys.executable, "-c", code, json.dumps([name, *arguments])]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=200)
    return json.loads(done.stdout)


def ended(folder: Path, job: str) -> str:
    """What `wait` says once it no longer asks for another try."""
    while (state := task(folder, "wait", job, 20)) == "NotFinished":
        pass
    return str(state)


def test_tasks_go_on_after_the_orchestrators_restart(platform: Platform, folder: Path) -> None:
    spec = platform.spec(gate={"max_mean_perplexity": 12.5}, labels={"team": "search"})
    job = task(folder, "submit", spec, RUN)
    assert task(folder, "submit", spec, RUN) == job
    with platform.client() as client:
        assert [each["id"] for each in client.jobs(label="team=search")] == [job]
    assert task(folder, "wait", job, 0) == "NotFinished"
    with platform.start_worker():
        assert ended(folder, job) == "succeeded"
    assert task(folder, "check", job) == 12.0
    files = task(folder, "download", job, "pruned")
    assert all((folder / file).is_file() for file in files)
    assert task(folder, "download", job, "pruned") == files
    assert task(folder, "submit", spec, RUN) == job, "however late it is asked again"
    assert task(folder, "submit", spec, "another run") != job


def test_a_missed_gate_is_not_good(platform: Platform, folder: Path) -> None:
    job = task(folder, "submit", platform.spec(gate={"max_mean_perplexity": 11}), RUN)
    with platform.start_worker():
        assert ended(folder, job) == "failed"
    assert task(folder, "check", job) == "NotGood"


def test_a_refused_job_is_not_good(platform: Platform, folder: Path) -> None:
    assert task(folder, "submit", platform.spec(sparsity={"target": 2}), RUN) == "NotGood"


def retrying(function: Any, retries: int = 0, **_: Any) -> Any:
    """A task that is called again after an error, at once."""

    def call(*arguments: Any, **named: Any) -> Any:
        for left in range(retries, -1, -1):
            try:
                return function(*arguments, **named)
            except Exception:
                if not left:
                    raise
        raise AssertionError

    return call


def module(name: str, monkeypatch: pytest.MonkeyPatch, **contents: Any) -> None:
    made = ModuleType(name)
    made.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, name, made)


@pytest.mark.usefixtures("worker")
def test_the_prefect_flow(platform: Platform, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module("prefect", monkeypatch, task=retrying, flow=lambda function: function)
    namespace: dict[str, Any] = {}
    exec(snippet("platforms.md", "An orchestrator/2"), namespace)  # noqa: S102
    assert namespace["prune"](platform.spec(), RUN, str(folder / "pruned")) == 12.0
    assert (folder / "pruned" / "report.json").is_file()


@pytest.mark.usefixtures("worker")
def test_the_airflow_dag(platform: Platform, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"spec": platform.spec(), "folder": str(folder / "pruned")}
    rendered = {"{{ params." + name + " }}": value for name, value in given.items()}

    def airflow_task(function: Any = None, **options: Any) -> Any:
        if function is None:
            return lambda each: airflow_task(each, **options)
        again = retrying(function, options.get("retries", 0))
        context = {"run_id": RUN} if "run_id" in function.__code__.co_varnames else {}
        return lambda *arguments: again(*(rendered.get(str(each), each) for each in arguments), **context)

    module("airflow", monkeypatch)
    module("airflow.exceptions", monkeypatch, AirflowFailException=RuntimeError)
    module("airflow.sdk", monkeypatch, task=airflow_task, dag=lambda **_: lambda function: function)
    exec(snippet("platforms.md", "An orchestrator/3"), {})  # noqa: S102
    assert (folder / "pruned" / "report.json").is_file()
