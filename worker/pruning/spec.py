"""The description of a pruning job: plain dataclasses, read from the engine's request."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.pruning.errors import SpecError
from worker.pruning.fields import Fields
from worker.pruning.hidden import HIDDEN_BYTES
from worker.pruning.lineage_spec import Base, OutputSpec
from worker.pruning.method_spec import Method, MethodName, Mode
from worker.pruning.settings import Numerics
from worker.pruning.sparsity_spec import Sparsity
from worker.pruning.text_spec import Documents, Format, Text

__all__ = ["Calibration", "Documents", "Domain", "EvaluationSpec", "Format", "PruningJob", "Resume", "Text"]

MIN_WEIGHT, MAX_WEIGHT = 0.01, 100.0


@dataclass(frozen=True)
class Calibration:
    """Which windows of a text a domain is learned from: `samples` of them, `sequence_length` tokens each, drawn by
    `seed`. field: its place in the request, a JSON pointer."""

    text: Text
    samples: int
    sequence_length: int
    seed: int
    field: str
    held_out: float = 0.1
    """Share of the windows that nothing is solved on: they only measure the error of what was solved."""
    documents: Documents = Documents.joined

    @classmethod
    def read(cls, fields: Fields) -> "Calibration":
        calibration = cls(
            text=Text.read(fields),
            samples=fields.integer("samples", 128, low=1),
            sequence_length=fields.integer("sequence_length", 2048, low=2),
            seed=fields.integer("seed", 0),
            field=fields.pointer,
            held_out=fields.number("held_out", cls.held_out),
            documents=fields.choice("documents", Documents, cls.documents),
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
    """One stage of a job: what is learned, and the text that its perplexity is measured on."""

    name: str
    calibration: Calibration
    evaluation: Text | None
    """None: this domain has no column in R."""
    field: str
    weight: float = 1.0
    """How much the domain counts in sums over domains."""

    @classmethod
    def read(cls, fields: Fields) -> "Domain":
        evaluation = fields.child("evaluation", optional=True)
        domain = cls(
            name=fields.text("name"),
            calibration=Calibration.read(fields.required("calibration")),
            evaluation=Text.read(evaluation) if evaluation else None,
            field=fields.pointer,
            weight=fields.number("weight", cls.weight, low=MIN_WEIGHT, high=MAX_WEIGHT),
        )
        if evaluation:
            evaluation.finish()
        fields.finish()
        return domain


@dataclass(frozen=True)
class EvaluationSpec:
    """Perplexity is of a text's first `max_windows` windows of `sequence_length` tokens, which do not overlap."""

    sequence_length: int = 2048
    max_windows: int = 64
    documents: Documents = Documents.joined

    @classmethod
    def read(cls, fields: Fields | None) -> "EvaluationSpec":
        if fields is None:
            return cls()
        spec = cls(
            sequence_length=fields.integer("sequence_length", cls.sequence_length, low=2),
            max_windows=fields.integer("max_windows", cls.max_windows, low=1),
            documents=fields.choice("documents", Documents, cls.documents),
        )
        fields.finish()
        return spec


@dataclass(frozen=True)
class Resume:
    """What an earlier run of the same job, in the same workspace, has finished."""

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
    """A model, how to prune it, and the domains to do so for, one after another. `from_dict` reads and checks one.

    workspace: a folder for all that is written. model: a folder with config.json, safetensors and tokenizer.
    device: "cpu", "cuda", "cuda:1", …, or "auto". threads: torch's, and part of what the bytes depend on.
    """

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
    base: Base | None = None
    """The job that this one goes on from."""
    numerics: Numerics = Numerics.fast
    output: OutputSpec = field(default_factory=OutputSpec)

    @property
    def first_stage(self) -> int:
        """The number of this job's stage 0 in its lineage."""
        return 0 if self.base is None else self.base.stages

    @property
    def lineage(self) -> tuple[str, ...]:
        """The names of all domains of the lineage so far, in the order of its stages."""
        earlier = () if self.base is None else self.base.domains
        return (*earlier, *(domain.name for domain in self.domains))

    @property
    def evaluated(self) -> tuple[tuple[str, Text, str], ...]:
        """The lineage's test texts: domain, text, JSON pointer; a column of R each."""
        earlier = () if self.base is None else self.base.evaluations
        own = [(d.name, d.evaluation, f"{d.field}/evaluation") for d in self.domains if d.evaluation is not None]
        return (*((each.domain, each.text, each.field) for each in earlier), *own)

    @classmethod
    def from_dict(cls, request: Any) -> "PruningJob":
        """The job an engine request describes. Raises SpecError naming the field by JSON pointer and the fix."""
        fields = Fields(request)
        base = fields.child("base", optional=True)
        job = cls(
            workspace=Path(fields.text("workspace")),
            model=Path(fields.text("model")),
            method=Method.read(fields.required("method")),
            sparsity=Sparsity.read(fields.required("sparsity")),
            domains=tuple(Domain.read(item) for item in fields.children("domains")),
            evaluation=EvaluationSpec.read(fields.child("evaluation", optional=True)),
            device=fields.text("device", "auto"),
            threads=fields.integer("threads", cls.threads, low=1),
            hidden_bytes=fields.integer("hidden_bytes", cls.hidden_bytes),
            resume=Resume.read(fields.child("resume", optional=True)),
            base=Base.read(base) if base else None,
            numerics=fields.choice("numerics", Numerics, cls.numerics),
            output=OutputSpec.read(fields.child("output", optional=True)),
        )
        job._check_domains()
        _refuse_blind_choice(job)
        return job

    def _check_domains(self) -> None:
        if not self.domains:
            raise SpecError("/domains", "needs at least one domain")
        if self.base is not None and self.method.mode is Mode.restart:
            raise SpecError("/method/mode", "restart keeps nothing to go on from; leave the base out")
        for domain in self.domains:
            if self.lineage.count(domain.name) > 1:
                message = f"two domains are called {domain.name!r}; names must differ, in all of a lineage"
                raise SpecError(f"{domain.field}/name", message)
            if domain.weight != 1 and self.method.mode is not Mode.accumulated:
                message = f"has an effect in mode accumulated only, and mode is {self.method.mode}; leave it out"
                raise SpecError(f"{domain.field}/weight", message)


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
