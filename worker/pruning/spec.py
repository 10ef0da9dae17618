"""The description of a pruning job: plain dataclasses, read from the engine's request."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from worker.pruning.errors import SpecError
from worker.pruning.fields import Fields
from worker.pruning.hidden import HIDDEN_BYTES
from worker.pruning.method_spec import Method, MethodName
from worker.pruning.sparsity_spec import Sparsity


class Format(StrEnum):
    txt = "txt"
    jsonl = "jsonl"


@dataclass(frozen=True)
class Text:
    path: Path
    format: Format
    text_field: str

    @classmethod
    def read(cls, fields: Fields) -> "Text":
        return cls(
            path=Path(fields.text("path")),
            format=fields.choice("format", Format, Format.txt),
            text_field=fields.text("text_field", "text"),
        )


@dataclass(frozen=True)
class Calibration:
    text: Text
    samples: int
    sequence_length: int
    seed: int
    field: str
    held_out: float = 0.1
    """Share of the windows that nothing is solved on: they only measure the error of what was solved."""

    @classmethod
    def read(cls, fields: Fields) -> "Calibration":
        calibration = cls(
            text=Text.read(fields),
            samples=fields.integer("samples", 128, low=1),
            sequence_length=fields.integer("sequence_length", 2048, low=2),
            seed=fields.integer("seed", 0),
            field=fields.pointer,
            held_out=fields.number("held_out", cls.held_out),
        )
        fields.finish()
        if calibration.held_out >= 0.5:
            raise SpecError(fields.at("held_out"), "must be less than 0.5; 0 holds nothing out")
        return calibration

    @property
    def tokens(self) -> int:
        return self.samples * self.sequence_length


@dataclass(frozen=True)
class Domain:
    name: str
    calibration: Calibration
    evaluation: Text | None
    """None: this domain has no column in R."""
    field: str

    @classmethod
    def read(cls, fields: Fields) -> "Domain":
        evaluation = fields.child("evaluation", optional=True)
        domain = cls(
            name=fields.text("name"),
            calibration=Calibration.read(fields.required("calibration")),
            evaluation=Text.read(evaluation) if evaluation else None,
            field=fields.pointer,
        )
        if evaluation:
            evaluation.finish()
        fields.finish()
        return domain


@dataclass(frozen=True)
class EvaluationSpec:
    sequence_length: int = 2048
    max_windows: int = 64

    @classmethod
    def read(cls, fields: Fields | None) -> "EvaluationSpec":
        if fields is None:
            return cls()
        spec = cls(
            sequence_length=fields.integer("sequence_length", cls.sequence_length, low=2),
            max_windows=fields.integer("max_windows", cls.max_windows, low=1),
        )
        fields.finish()
        return spec


@dataclass(frozen=True)
class Resume:
    stages: int = 0
    """Complete stages, whose files are in the workspace."""
    blocks: int = 0
    """Committed blocks of the next stage."""
    evaluations: tuple[dict[str, Any], ...] = ()
    """Evaluations already reported: at least row, domain, perplexity."""

    @classmethod
    def read(cls, fields: Fields | None) -> "Resume":
        if fields is None:
            return cls()
        evaluations = fields.raw("evaluations", []) or []
        return cls(fields.integer("stages", 0), fields.integer("blocks", 0), tuple(evaluations))


@dataclass(frozen=True)
class PruningJob:
    workspace: Path
    model: Path
    method: Method
    sparsity: Sparsity
    domains: tuple[Domain, ...]
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    device: str = "auto"
    threads: int = 2
    hidden_bytes: int = HIDDEN_BYTES
    """Hidden states held in memory at once; what is beyond goes to a scratch file in the workspace."""
    resume: Resume = field(default_factory=Resume)

    @classmethod
    def from_dict(cls, request: Any) -> "PruningJob":
        """The job an engine request describes. Raises SpecError naming the field by JSON pointer and the fix."""
        fields = Fields(request)
        domains = tuple(Domain.read(item) for item in fields.children("domains"))
        if not domains:
            raise SpecError("/domains", "needs at least one domain")
        names = [domain.name for domain in domains]
        for domain in domains:
            if names.count(domain.name) > 1:
                raise SpecError(
                    f"{domain.field}/name", f"two domains are called {domain.name!r}; names must differ"
                )
        job = cls(
            workspace=Path(fields.text("workspace")),
            model=Path(fields.text("model")),
            method=Method.read(fields.required("method")),
            sparsity=Sparsity.read(fields.required("sparsity")),
            domains=domains,
            evaluation=EvaluationSpec.read(fields.child("evaluation", optional=True)),
            device=fields.text("device", "auto"),
            threads=fields.integer("threads", cls.threads, low=1),
            hidden_bytes=fields.integer("hidden_bytes", cls.hidden_bytes),
            resume=Resume.read(fields.child("resume", optional=True)),
        )
        _refuse_blind_choice(job)
        return job


def _refuse_blind_choice(job: PruningJob) -> None:
    """`auto` needs held-out windows in every stage."""
    named = {job.method.name, *(override.method for override in job.sparsity.overrides)}
    if MethodName.auto not in named:
        return
    for calibration in (domain.calibration for domain in job.domains):
        if calibration.held_out == 0:
            message = "must be more than 0: the method `auto` chooses by the error on the windows held out"
            raise SpecError(f"{calibration.field}/held_out", message)
        if calibration.samples < 2:
            message = "must be at least 2: the method `auto` chooses by the error on windows held out, here none"
            raise SpecError(f"{calibration.field}/samples", message)
