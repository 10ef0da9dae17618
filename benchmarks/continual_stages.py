"""Making the stages of the continual benchmark, every one once, and evaluating them window by window."""

import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.child import run_child
from benchmarks.continual_joint import balanced_seed, write_mix
from benchmarks.continual_rows import CALIBRATIONS, JOINT, Row, Stage
from benchmarks.machine import machine
from benchmarks.measure import figures as taken
from benchmarks.protocol import TESTS, Protocol, digest
from benchmarks.results import Results, key_digest
from benchmarks.rows import engine_sources
from secateur.spec.method import read_method
from worker.pruning import EvaluationSpec, Format, Text, perplexities
from worker.pruning.state.atomic import write_json

MADE = "made.json"


@dataclass(frozen=True)
class Stages:
    """Stages of one model under one protocol.

    protocol.windows are evaluated from window number `first` on. A finished stage's figures are kept for good in
    `cache`; its folder (model and state, for later stages) until `sweep`.
    """

    model: Path
    dtype: str
    cache: Path
    protocol: Protocol
    first: int = 0
    jobs: int = 1
    """Stages made at a time; it is noted with their seconds."""

    def dense(self) -> dict[str, Any]:
        """Of the model that is pruned: `losses` by domain and window."""
        key = self._made_by | self._evaluated_on | {"row": "dense"}
        return self._kept(key) or self._keep(key, {}, self.model)

    def figures(self, stage: Stage) -> dict[str, Any]:
        """`losses` by domain and window, and what pruning took from the stage before. Raises ChildFailed."""
        key = self.key(stage)
        return self._kept(key) or self._keep(key, *self._made(stage))

    def is_kept(self, stage: Stage) -> bool:
        """Whether its figures are known."""
        return self._kept(self.key(stage)) is not None

    def wanted(self, row: Row) -> list[Stage]:
        """Those of the row that are evaluated: all of them for a report, which wants R, else the last one."""
        return row.stages if self.reported else row.stages[-1:]

    def name(self, stage: Stage) -> str:
        """The same for stages that are pruned alike."""
        return key_digest(self._pruned_by(stage))

    def perplexity(self, losses: dict[str, list[float]]) -> dict[str, float]:
        """By domain, over the protocol's windows."""
        chosen = slice(self.first, self.first + self.protocol.windows)
        means = {domain: math.fsum(own[chosen]) / self.protocol.windows for domain, own in losses.items()}
        # As in the engine: a broken model's loss may be past what a float can hold.
        return {domain: math.exp(min(mean, 700.0)) for domain, mean in means.items()}

    def key(self, stage: Stage) -> dict[str, Any]:
        """Everything that determines a stage's losses, by content. How many windows are asked for does not: each
        has a loss of its own."""
        return self._pruned_by(stage) | self._evaluated_on

    def identity(self) -> dict[str, Any]:
        """The protocol by content."""
        return self.protocol.identity() | {"first_window": self.first, "calibration": self._calibrations}

    def sweep(self, wanted: Iterable[Stage]) -> None:
        """Remove the folders of all stages but those that are still to be made from, or evaluated."""
        kept: set[Path] = set()
        for stage in wanted:
            reached: Stage | None = None if self.is_kept(stage) else stage
            while reached is not None:
                kept.add(self._place(reached))
                reached = reached.before
        for folder in self._folders.iterdir() if self._folders.is_dir() else ():
            if folder not in kept:
                shutil.rmtree(folder)

    def request(self, stage: Stage, workspace: Path) -> dict[str, Any]:
        """To the engine: one new domain, continuing the stage before, which is expected in `base`."""
        before = stage.before
        base = {"folder": "base", "domains": list(before.domains)} if before else None
        return {
            "workspace": str(workspace),
            "model": str(self.model),
            "threads": self.protocol.threads,
            "method": stage.setting.method,
            "sparsity": stage.setting.sparsity,
            "output": stage.setting.output,
            **self.learned(stage.domains[-1]),
            **({"base": base} if base else {}),
        }

    @property
    def reported(self) -> bool:
        """Whether these windows are for the report."""
        return self.first == 0

    @property
    def _end(self) -> int:
        return self.first + self.protocol.windows

    @property
    def _folders(self) -> Path:
        return self.cache / "stages"

    @property
    def _results(self) -> Results:
        return Results(self.cache / "continual")

    @cached_property
    def _made_by(self) -> dict[str, Any]:
        return {
            "model": digest(sorted(self.model.glob("*.safetensors"))),
            "dtype": self.dtype,
            "threads": self.protocol.threads,
            "machine": machine(),
            "engine": digest(engine_sources()),
        }

    @cached_property
    def _evaluated_on(self) -> dict[str, Any]:
        tests = {name: digest([self.protocol.data / path]) for name, (path, _) in TESTS.items()}
        return {"window_length": self.protocol.window_length, "tests": tests}

    @cached_property
    def _calibrations(self) -> dict[str, str]:
        return {name: digest([self.protocol.data / path]) for name, (path, _) in CALIBRATIONS.items()}

    def _pruned_by(self, stage: Stage) -> dict[str, Any]:
        """Settings are spelt out, so that it does not matter which of them were left at their defaults."""
        setting = stage.setting
        named = CALIBRATIONS if JOINT in stage.domains else stage.domains
        return self._made_by | {
            "row": "-".join((setting.method["name"], *stage.domains)),
            "method": read_method(setting.method).model_dump(mode="json"),
            "sparsity": setting.sparsity,
            "output": setting.output,
            "calibration": [self._calibrations[domain] for domain in named],
            **{name: getattr(self.protocol, name) for name in ("samples", "sequence_length", "seed")},
        }

    def _place(self, stage: Stage) -> Path:
        return self._folders / self.name(stage)

    def _kept(self, key: dict[str, Any]) -> dict[str, Any] | None:
        found = self._results.find(key)
        enough = found is not None and all(len(own) >= self._end for own in found["losses"].values())
        return found if enough else None

    def _keep(self, key: dict[str, Any], made: dict[str, Any], model: Path) -> dict[str, Any]:
        result = made | {"losses": self._losses(model)}
        self._results.keep(key, result)
        return result

    def _losses(self, model: Path) -> dict[str, list[float]]:
        """Of the windows up to the last one that is asked for. Raises ValueError where a text has fewer."""
        texts = {
            name: Text(path=self.protocol.data / path, format=Format(kind)) for name, (path, kind) in TESTS.items()
        }
        spec = EvaluationSpec(sequence_length=self.protocol.window_length, max_windows=self._end)
        found = perplexities(model, texts, spec, threads=self.protocol.threads)
        for name, entry in found.items():
            if entry.windows < self._end:
                raise ValueError(f"the test text of {name} has {entry.windows} windows; {self._end} are asked for")
        return {name: entry.window_losses for name, entry in found.items()}

    def _made(self, stage: Stage) -> tuple[dict[str, Any], Path]:
        """What making it took, and its model."""
        place = self.folder(stage)
        made: dict[str, Any] = json.loads((place / MADE).read_text())
        return made, place / "model"

    def folder(self, stage: Stage) -> Path:
        """The stage's model and state, pruned now unless they are there."""
        place = self._place(stage)
        if place.is_dir():
            return place
        with tempfile.TemporaryDirectory(dir=self.cache) as name:
            workspace = Path(name)
            if (before := stage.before) is not None:
                (workspace / "base").symlink_to(self.folder(before), target_is_directory=True)
            load = os.getloadavg()[0]
            command = [sys.executable, "-m", "benchmarks.ours"]
            finished = run_child(command, self.request(stage, workspace), self.protocol.threads)
            folder = Path(finished.answer["model"]).parent
            state = sum(file.stat().st_size for file in (folder / "state").iterdir())
            summary = finished.answer["summary"]
            made = {"sparsity": summary["sparsity"], "state_bytes": state, "load_before": load, "jobs": self.jobs}
            write_json(folder / MADE, taken(finished) | made)
            self._folders.mkdir(exist_ok=True)
            folder.rename(place)
        return place

    def learned(self, domain: str) -> dict[str, Any]:
        """A request's part that says what is learned: one domain, and the text that is its."""
        protocol = self.protocol
        samples, length, seed = protocol.samples, protocol.sequence_length, protocol.seed
        if domain == JOINT:
            path = self.cache / f"joint-{key_digest(self._calibrations | {'model': self._made_by['model']})}.jsonl"
            if not path.is_file():
                write_mix(self.model, protocol.data, path)
            seed = balanced_seed(self.model, path, samples, length, seed)
            file, kind, samples = str(path), "jsonl", samples * len(CALIBRATIONS)
        else:
            file, kind = str(protocol.data / CALIBRATIONS[domain][0]), CALIBRATIONS[domain][1]
        windows = {"samples": samples, "sequence_length": length, "seed": seed}
        return {
            "domains": [{"name": domain, "dataset": domain, "calibration": windows}],
            "texts": {domain: {"path": file, "format": kind}},
        }
