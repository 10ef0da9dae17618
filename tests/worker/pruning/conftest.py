"""A tiny model, tiny texts, and a recorder of everything a job says."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from secateur.spec.records.pipe import BlockResult, Evaluation, Message, Note, Output, Progress, StageResult
from tests.pretend_gpu import pretend_gpu
from tests.tiny import make_tiny_llama, text
from worker.pruning import PruningJob, Silent, run

DEVICE: Final = os.environ.get("SECATEUR_TEST_DEVICE", "cpu")
"""What jobs of these tests run on: `cpu`, `cuda` for a real GPU, or `pretend` for one that counts."""


class Recorder(Silent):
    """Keeps every call, in order."""

    def __init__(self) -> None:
        self.progresses: list[Progress] = []
        self.evaluations: list[Evaluation] = []
        self.blocks: list[BlockResult] = []
        self.stages: list[StageResult] = []
        self.notes: list[tuple[str, str, dict[str, Any]]] = []
        self.checks = 0

    def tell(self, record: Message) -> None:
        match record:
            case Progress():
                self.progresses.append(record)
            case Evaluation():
                self.evaluations.append(record)
            case BlockResult():
                self.blocks.append(record)
            case StageResult():
                self.stages.append(record)
            case Note(level=level, message=message, data=data):
                self.notes.append((level, message, data))

    def check(self) -> None:
        self.checks += 1


def on_device() -> AbstractContextManager[object]:
    """Inside it jobs have their device; every test is."""
    return pretend_gpu() if DEVICE == "pretend" else nullcontext()


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_synced() -> Iterator[None]:
    """A test fears no power cut, and waiting for the disk takes a fifth of a tiny job."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with on_device():
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_llama(tmp_path_factory.mktemp("models") / "llama")
    (folder / "LICENSE.txt").write_text("terms")
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.txt, b.txt and c.txt."""
    folder = tmp_path_factory.mktemp("texts")
    for seed, name in enumerate("abc"):
        (folder / f"{name}.txt").write_text(text(1500, seed), encoding="utf-8")
    return folder


def domain(texts: Path, name: str, *, evaluation: str | None = "c", seed: int = 0) -> dict[str, Any]:
    """A domain as a request has it, but for its texts, which are paths."""
    return {
        "name": name,
        "dataset": str(texts / f"{name}.txt"),
        "calibration": {"samples": 6, "sequence_length": 32, "seed": seed},
        "evaluation": str(texts / f"{evaluation}.txt") if evaluation else None,
    }


def known_again(evaluations: Iterable[Evaluation]) -> list[dict[str, Any]]:
    """Evaluations as a later attempt is told of them: what the database has of them, through JSON."""
    kept = ("row", "domain", "perplexity", "protocol")
    found: list[dict[str, Any]] = json.loads(json.dumps([{k: getattr(e, k) for k in kept} for e in evaluations]))
    return found


Request = Callable[..., dict[str, Any]]


@pytest.fixture
def request_for(tiny_llama: Path, texts: Path, tmp_path: Path) -> Request:
    """See `requests_in`."""
    return requests_in(tmp_path, tiny_llama, texts)


def requests_in(folder: Path, model: Path, texts: Path) -> Request:
    """Makes engine requests; keyword arguments replace whole fields, `domains` is a string of names or a list.

    Texts are known by their files' names without the ending: `a`, `b`, `c`, and those that a listed domain has.
    """

    def make(
        *, domains: str | list[dict[str, Any]] = "a", workspace: str = "work", **fields: Any
    ) -> dict[str, Any]:
        listed = [domain(texts, name) if isinstance(name, str) else dict(name) for name in domains]
        paths = {name: str(texts / f"{name}.txt") for name in "abc"}
        for each in listed:
            for key in ("dataset", "evaluation"):
                if each[key] is not None:
                    path = Path(each[key])
                    each[key] = path.stem
                    if path.suffix:
                        paths[path.stem] = str(path)
        return {
            "workspace": str(folder / workspace),
            "model": str(model),
            "device": "cpu" if DEVICE == "cpu" else "cuda:0",
            "threads": 1,
            "method": {"name": "wanda"},
            "sparsity": {"target": 0.5, "allocation": "uniform"},
            "domains": listed,
            "texts": {name: {"path": path} for name, path in paths.items()},
            "evaluation": {"sequence_length": 32, "max_windows": 4},
            **fields,
        }

    return make


def prune(request: dict[str, Any], recorder: Silent | None = None) -> Output:
    return run(PruningJob.from_dict(request), recorder or Silent())
