"""One row: prune in a child, then look at what it wrote with our own eyes, whoever wrote it."""

import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.child import Finished, run_child
from benchmarks.machine import machine
from benchmarks.peers import PINS, SCRIPT, peers_python
from benchmarks.protocol import Protocol, digest
from benchmarks.rows import Row, engine_sources
from secateur.spec.sparsity import Pattern
from worker.pruning.calibration import tokenizer, windows
from worker.pruning.evaluation import losses, perplexity
from worker.pruning.methods.masks import follows
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import build_graph

EVALUATOR = tuple(Path(str(module.__file__)) for module in (losses, perplexity, tokenizer, windows))
"""What turns a peer's model into figures; the rest of the engine may change without measuring it again."""


@dataclass(frozen=True)
class Bench:
    """What all rows of one table share. dtype: the model's, such as float32; the peers load it as that."""

    model: Path
    dtype: str
    cache: Path
    protocol: Protocol

    def key(self, row: Row) -> dict[str, Any]:
        """Everything that determines the row's figures, by content: equal keys, equal rows."""
        shared = {
            "row": row.name,
            "sparsity": row.sparsity,
            "model": digest(sorted(self.model.glob("*.safetensors"))),
            "dtype": self.dtype,
            "protocol": self._identity,
            "machine": machine(),
        }
        if row.peer:
            return shared | {
                "peer": row.peer,
                "software": digest([PINS, SCRIPT]),
                "evaluator": digest(list(EVALUATOR)),
            }
        return shared | {"method": row.method, "engine": digest(engine_sources())}

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return self.protocol.identity()

    def measure(self, row: Row) -> dict[str, Any]:
        """Perplexities, and for a pruned model its rates, seconds and memory. Raises ChildFailed."""
        if row.sparsity is None:
            return {"perplexity": self.protocol.perplexity(self.model)}
        with tempfile.TemporaryDirectory(dir=self.cache) as workspace:
            finished = self.prune(row, Path(workspace))
            folder = Path(finished.answer["model"])
            return {
                "perplexity": self.protocol.perplexity(folder),
                **written(folder, row.sparsity["pattern"]),
                **figures(finished),
            }

    def prune(self, row: Row, workspace: Path) -> Finished:
        """The pruned model is in the folder that the answer names, with the dense model's own tokenizer."""
        if row.peer is None:
            request = self.protocol.request(self.model, workspace, row.method, row.sparsity)
            return run_child([sys.executable, "-m", "benchmarks.ours"], request, self.protocol.threads)
        python = peers_python(self.cache)
        finished = run_child(
            [str(python), "-P", str(SCRIPT)], self.asked_of_peer(row, workspace), self.protocol.threads
        )
        for name in tokenizer.TOKENIZER_FILES:
            if (self.model / name).is_file():
                shutil.copy(self.model / name, finished.answer["model"])
        return finished

    def asked_of_peer(self, row: Row, workspace: Path) -> dict[str, Any]:
        """The request to SCRIPT, its calibration windows written to `workspace`."""
        assert row.sparsity is not None
        pattern = Pattern.parse(row.sparsity["pattern"])
        # Its n:m counts the zeros, ours the weights that stay.
        zeros = (pattern.group or 0) - (pattern.kept or 0)
        self.protocol.write_windows(self.model, workspace / "windows.npy")
        return {
            "algorithm": row.peer,
            "model": str(self.model),
            "dtype": self.dtype,
            "windows": str(workspace / "windows.npy"),
            "target": row.sparsity["target"],
            "mask_structure": f"{zeros}:{pattern.group or 0}",
            "threads": self.protocol.threads,
            "output": str(workspace / "model"),
        }


def figures(finished: Finished) -> dict[str, Any]:
    times = ("seconds", "processor_seconds", "planned_seconds")
    return {
        **{name: round(finished.answer[name], 2) for name in times if name in finished.answer},
        "peak_rss_bytes": finished.peak_rss_bytes,
        "peak_anon_bytes": finished.peak_anon_bytes,
    }


def written(folder: Path, pattern: str) -> dict[str, Any]:
    """The share of zeros among the block's matrices as written, and whether each follows the pattern."""
    checkpoint = Checkpoint.open(folder)
    wanted = Pattern.parse(pattern)
    weights = zeros = broken = 0
    for matrix in build_graph(folder, checkpoint).matrices:
        tensor = checkpoint.read_slice(matrix.tensor, matrix.slice)
        tensor = tensor.T if matrix.transposed else tensor
        weights, zeros = weights + tensor.numel(), zeros + int((tensor == 0).sum())
        broken += not follows(tensor, wanted)
    return {"sparsity": zeros / weights, "weights": weights, "matrices_off_pattern": broken}
