"""What all figures here have in common: texts, windows, and one evaluator for everybody's models."""

import argparse
import hashlib
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from secateur.spec.job import Calibration, Documents
from worker.pruning import EvaluationSpec, Format, Text, perplexities
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.windows import calibration_windows

TESTS = {
    "wikitext2": ("wikitext2/test.txt", "txt"),
    "ptb": ("ptb/test.txt", "txt"),
    "c4": ("c4/test.jsonl", "jsonl"),
}
CALIBRATION = "c4/calibration.jsonl"


@dataclass(frozen=True)
class Protocol:
    """Calibrated on `samples` random windows of C4, evaluated on the first `windows` ones of each test text."""

    data: Path
    threads: int
    samples: int = 64
    sequence_length: int = 512
    """Tokens of a calibration window."""
    windows: int = 24
    window_length: int = 1024
    """Tokens of an evaluation window."""
    seed: int = 0
    documents: Documents = Documents.joined
    """Of the calibration text."""

    @property
    def calibration(self) -> Calibration:
        names = ("samples", "sequence_length", "seed", "documents")
        return Calibration(**{name: getattr(self, name) for name in names})

    def request(self, model: Path, workspace: Path, method: Any, sparsity: Any) -> dict[str, Any]:
        """An engine request that prunes for one domain and leaves the evaluation to us."""
        windows = self.calibration.model_dump(mode="json")
        return {
            "workspace": str(workspace),
            "model": str(model),
            "threads": self.threads,
            "method": method,
            "sparsity": sparsity,
            "domains": [{"name": "c4", "dataset": "c4", "calibration": windows}],
            "texts": {"c4": {"path": str(self.data / CALIBRATION), "format": "jsonl"}},
        }

    def write_windows(self, model: Path, path: Path) -> None:
        """All of the protocol's windows, also the held-out, (samples, sequence_length), int64, as a .npy file."""
        text = Text(path=self.data / CALIBRATION, format=Format.jsonl)
        drawn = self.calibration.model_copy(update={"held_out": 0.0})
        numpy.save(path, calibration_windows(Tokenizer(model), text, drawn, "/calibration").solved_on.numpy())

    def perplexity(self, model: Path) -> dict[str, float]:
        """Of the checkpoint folder `model`, whoever wrote it, on every test text."""
        texts = {name: Text(path=self.data / path, format=Format(kind)) for name, (path, kind) in TESTS.items()}
        spec = EvaluationSpec(sequence_length=self.window_length, max_windows=self.windows)
        found = perplexities(model, texts, spec, threads=self.threads)
        return {name: entry.perplexity for name, entry in found.items()}

    def identity(self) -> dict[str, Any]:
        """All of it by content: two rows with equal identities are comparable."""
        files = [CALIBRATION, *(path for path, _ in TESTS.values())]
        numbers = {key: value for key, value in vars(self).items() if key != "data"}
        return numbers | {"texts": {file: digest([self.data / file]) for file in files}}


def digest(files: list[Path]) -> str:
    """sha256 over the files' contents, in the given order."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            whole.update(hashlib.file_digest(handle, "sha256").digest())
    return whole.hexdigest()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that make a Protocol, and the folder where models and results are kept."""
    default = os.environ.get("SECATEUR_DATA")
    parser.add_argument("--data", type=Path, default=Path(default) if default else None)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "secateur-benchmarks")
    parser.add_argument("--samples", type=int, default=Protocol.samples)
    parser.add_argument("--sequence-length", type=int, default=Protocol.sequence_length)
    parser.add_argument("--windows", type=int, default=Protocol.windows)
    parser.add_argument("--window-length", type=int, default=Protocol.window_length)
    parser.add_argument("--seed", type=int, default=Protocol.seed)
    parser.add_argument("--documents", type=Documents, default=Protocol.documents, choices=list(Documents))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)


def read_arguments(options: argparse.Namespace) -> Protocol:
    """The protocol, its cache folder made. Ends the program, with the reason, where there are no texts."""
    if options.data is None or not (options.data / CALIBRATION).is_file():
        sys.exit(f"--data (or SECATEUR_DATA) must name a folder with {CALIBRATION}")
    options.cache = options.cache.resolve()
    options.cache.mkdir(parents=True, exist_ok=True)
    return Protocol(
        data=options.data.resolve(),
        threads=options.threads,
        samples=options.samples,
        sequence_length=options.sequence_length,
        windows=options.windows,
        window_length=options.window_length,
        seed=options.seed,
        documents=options.documents,
    )
