"""A tiny run of the continual benchmark, for the tests of its parts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import continual_stages
from benchmarks.child import Finished
from benchmarks.continual_rows import CALIBRATIONS, Row, choose
from benchmarks.continual_stages import Stages
from benchmarks.protocol import TESTS, Protocol
from tests.tiny import make_tiny_llama, text
from worker.pruning import PruningJob, Silent, run

LETTERS = {"wikitext2": "w", "ptb": "p", "c4": "c"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """Without a cache: tests make their own."""
    folder = tmp_path_factory.mktemp("bench")
    files = [path for path, _ in (*CALIBRATIONS.values(), *TESTS.values())]
    for number, file in enumerate(files):
        path = folder / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        words = text(500, seed=number)
        path.write_text(words if path.suffix == ".txt" else json.dumps({"text": words}) + "\n")
    protocol = Protocol(folder / "data", 1, samples=4, sequence_length=32, windows=2, window_length=16)
    return Stages(make_tiny_llama(folder / "model"), "float32", folder, protocol)


def prune_here(_command: list[str], request: dict[str, Any], _threads: int) -> Finished:
    """In place of `run_child`: pruned in this process, which saves the seconds that a child takes to begin."""
    output = run(PruningJob.from_dict(request), Silent())
    model = str(Path(request["workspace"]) / "stage-00/model")
    return Finished(
        {"seconds": 1.0, "processor_seconds": 1.0, "model": model, "summary": output.summary.model_dump()}, 1, 1
    )


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lineage of every stage that is pruned, in the order of their pruning by `prune_here`."""
    lineages: list[str] = []

    def noted(command: list[str], request: dict[str, Any], threads: int) -> Finished:
        names = [*request.get("base", {"domains": []})["domains"], request["domains"][0]["name"]]
        lineages.append("".join(LETTERS.get(name, name) for name in names))
        return prune_here(command, request, threads)

    monkeypatch.setattr(continual_stages, "run_child", noted)
    return lineages


@pytest.fixture
def stages(bare: Stages, made: list[str], tmp_path: Path) -> Stages:
    """Pruned in this process; see `made`."""
    (tmp_path / "cache").mkdir()
    return replace(bare, cache=tmp_path / "cache")


def command(stages: Stages, out: Path, *more: str) -> list[str]:
    given = ["--data", stages.protocol.data, "--model", stages.model, "--cache", stages.cache, "--out", out]
    numbers = {key: value for key, value in vars(stages.protocol).items() if key != "data"}
    for key, value in numbers.items():
        given += [f"--{key.replace('_', '-')}", value]
    return [*map(str, given), "--dtype", "float32", *more]


def folders(stages: Stages) -> list[str]:
    return [path.name for path in (stages.cache / "stages").iterdir()]


def row(name: str) -> Row:
    (found,) = choose(name)
    return found
