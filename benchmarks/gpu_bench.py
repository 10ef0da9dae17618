"""What the sections of `benchmarks.gpu` have in common: the device, a table of results, tiny jobs."""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from secateur.spec.records.pipe import BlockResult, Evaluation, Message, Output
from tests.tiny import text
from worker.pruning import PruningJob, Silent, Stopped, run


@dataclass
class Bench:
    """device: a GPU, or the CPU to try the sections themselves. small: toy sizes. Every row is said at once, and
    stays in the file whatever comes after it."""

    device: torch.device
    small: bool
    out: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def say(self, section: str, **fields: Any) -> None:
        self.rows.append({"section": section, **fields})
        told = " ".join(f"{name}={value}" for name, value in fields.items())
        print(f"[{time.monotonic() - self.began:6.1f}] {section}: {told}", flush=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.rows, indent=1, default=str))

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], object], times: int = 3) -> float:
        """Of the quickest of some calls, the first left out."""
        call()
        best = math.inf
        for _ in range(times):
            self.wait()
            began = time.perf_counter()
            call()
            self.wait()
            best = min(best, time.perf_counter() - began)
        return best


METHODS = (
    {"name": "magnitude"},
    {"name": "wanda"},
    {"name": "admm"},
    {"name": "alps"},
    {"name": "sparsegpt"},
    {"name": "copal"},
    {"name": "copal", "reading": "token"},
    {"name": "copal", "reading": "sample"},
    {"name": "copal", "reading": "dataset"},
    {"name": "copal", "reading": "fisher", "weight_update": "admm"},
    {"name": "wanda", "weight_update": "admm", "mask": "searched"},
    {"name": "admm", "target": "prefix", "output_weighting": "gradients"},
    {"name": "admm", "mode": "sequential"},
    {"name": "auto"},
)


def make_texts(folder: Path, words: int = 6000) -> Path:
    """a.txt, b.txt and c.txt."""
    for seed, name in enumerate("abc"):
        (folder / f"{name}.txt").write_text(text(words, seed))
    return folder


def job(
    model: Path,
    texts: Path,
    workspace: Path,
    device: str,
    method: dict[str, Any],
    sparsity: dict[str, Any],
    *,
    domains: str = "ab",
    samples: int = 12,
    length: int = 64,
    windows: int = 4,
) -> dict[str, Any]:
    """A request. domains: a letter a text; all are evaluated on `c`."""
    calibration = {"samples": samples, "sequence_length": length}
    return {
        "workspace": str(workspace),
        "model": str(model),
        "device": device,
        "threads": min(os.cpu_count() or 1, 64),
        "method": method,
        "sparsity": sparsity,
        "domains": [
            {"name": name, "dataset": name, "calibration": calibration, "evaluation": "c"} for name in domains
        ],
        "texts": {name: {"path": str(texts / f"{name}.txt")} for name in "abc"},
        "evaluation": {"sequence_length": length, "max_windows": windows},
    }


def prune(request: dict[str, Any], observer: Silent | None = None) -> Output:
    if "resume" not in request:
        shutil.rmtree(request["workspace"], ignore_errors=True)
    return run(PruningJob.from_dict(request), observer or Silent())


def digests(workspace: Path) -> dict[str, str]:
    """Of every file of tensors that a job leaves."""
    paths = sorted(workspace.rglob("*.safetensors"))
    return {str(path.relative_to(workspace)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


class StopAfter(Silent):
    """Gives up behind so many blocks, as a supervisor that is told to stop."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks
        self.evaluations: list[dict[str, Any]] = []

    def tell(self, record: Message) -> None:
        if isinstance(record, BlockResult):
            self.left -= 1
        if isinstance(record, Evaluation):
            kept = ("row", "domain", "perplexity", "protocol")
            self.evaluations.append({name: getattr(record, name) for name in kept})

    def check(self) -> None:
        if self.left <= 0:
            raise Stopped
