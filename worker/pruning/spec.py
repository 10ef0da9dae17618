"""The description of a pruning job: plain dataclasses, read from the engine's request."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from worker.pruning.errors import SpecError
from worker.pruning.fields import Fields
from worker.pruning.hidden import HIDDEN_BYTES
from worker.pruning.patterns import Pattern, Scope


class MethodName(StrEnum):
    magnitude = "magnitude"
    wanda = "wanda"
    sparsegpt = "sparsegpt"
    admm = "admm"
    alps = "alps"
    copal = "copal"


class WeightUpdate(StrEnum):
    """What happens to the kept weights once the method is done."""

    none = "none"
    admm = "admm"


class Mode(StrEnum):
    """What a later domain starts from."""

    accumulated = "accumulated"  # dense weights, statistics of all domains so far
    restart = "restart"  # dense weights, this domain's statistics only
    sequential = "sequential"  # the previous stage's pruned weights, this domain's statistics only


class Reading(StrEnum):
    own_terms = "own_terms"
    token = "token"  # noqa: S105 - a reading of the sensitivity per token, not a secret


class Perturbation(StrEnum):
    relative = "relative"
    domain_shift = "domain_shift"


class Schedule(StrEnum):
    immediate = "immediate"
    gradual = "gradual"


class Allocation(StrEnum):
    """How the free matrices share an unstructured target."""

    uniform = "uniform"  # every matrix at the same rate
    owl = "owl"  # by the share of outliers in its activations (Yin et al. 2024, arXiv 2310.05175)
    error = "error"  # by the reconstruction errors measured on the calibration data


class Format(StrEnum):
    txt = "txt"
    jsonl = "jsonl"


MAX_DAMPING = 100.0
MAX_RHO = 1e6


@dataclass(frozen=True)
class AdmmConfig:
    iterations: int = 20
    """ADMM steps, each one product with the cached inverse; the most steps of the update on a given mask."""
    mask_steps: int = 15
    """The mask is chosen anew in the first so many steps, then frozen."""
    schedule: Schedule = Schedule.immediate
    """immediate: full sparsity from the first step; gradual: s_t = s·(1 − (1 − t/mask_steps)³)."""
    damping: float = 0.1
    """Ridge towards the dense weights, relative to the mean of the Gram's normalised diagonal."""
    rho: float = 1.0
    """ADMM's penalty, in the same normalised coordinates."""
    polish_steps: int = 10
    """Conjugate gradient steps on the final support at most; they end early once they gain nothing."""

    @classmethod
    def read(cls, fields: Fields | None) -> "AdmmConfig":
        if fields is None:
            return cls()
        config = cls(
            iterations=fields.integer("iterations", cls.iterations, low=1, high=1000),
            mask_steps=fields.integer("mask_steps", cls.mask_steps, low=1, high=1000),
            schedule=fields.choice("schedule", Schedule, cls.schedule),
            damping=fields.number("damping", cls.damping, high=MAX_DAMPING),
            rho=fields.number("rho", cls.rho, above=True, high=MAX_RHO),
            polish_steps=fields.integer("polish_steps", cls.polish_steps, high=1000),
        )
        fields.finish()
        if config.mask_steps > config.iterations:
            raise SpecError(fields.at("mask_steps"), f"must not exceed iterations ({config.iterations})")
        return config


@dataclass(frozen=True)
class SparseGptConfig:
    block: int = 128
    """Inputs whose mask is chosen at once; an n:m pattern chooses group by group."""
    damping: float = 0.01
    """Added to the Gram's diagonal, relative to its mean."""

    @classmethod
    def read(cls, fields: Fields | None) -> "SparseGptConfig":
        if fields is None:
            return cls()
        config = cls(
            block=fields.integer("block", cls.block, low=1, high=4096),
            damping=fields.number("damping", cls.damping, high=MAX_DAMPING),
        )
        fields.finish()
        return config


@dataclass(frozen=True)
class AlpsConfig:
    max_steps: int = 300
    """Steps at most; they end once the support has settled, mostly after 30 to 60."""
    update_every: int = 3
    """Steps between two looks at how far the support moved, each of which may change rho."""
    rho: float = 0.1
    """The penalty to begin with, in normalised coordinates; it grows while the support settles."""
    damping: float = 0.01
    """Ridge towards the dense weights, relative to the Gram's mean diagonal."""
    polish_steps: int = 10
    """Conjugate gradient steps on the final support at most; they end early once they gain nothing."""

    @classmethod
    def read(cls, fields: Fields | None) -> "AlpsConfig":
        if fields is None:
            return cls()
        config = cls(
            max_steps=fields.integer("max_steps", cls.max_steps, low=1, high=10_000),
            update_every=fields.integer("update_every", cls.update_every, low=1, high=1000),
            rho=fields.number("rho", cls.rho, above=True, high=MAX_RHO),
            damping=fields.number("damping", cls.damping, high=MAX_DAMPING),
            polish_steps=fields.integer("polish_steps", cls.polish_steps, high=1000),
        )
        fields.finish()
        return config


OWN_SCOPE: Final = {
    MethodName.magnitude: Scope.layer,
    MethodName.wanda: Scope.row,
    MethodName.sparsegpt: Scope.layer,
    MethodName.admm: Scope.layer,
    MethodName.alps: Scope.layer,
    MethodName.copal: Scope.row,
}
"""The comparison group of each method's paper (COPAL: the measured winner)."""
SOLVING: Final = frozenset({MethodName.sparsegpt, MethodName.admm, MethodName.alps})
"""The methods that change the kept weights themselves."""


@dataclass(frozen=True)
class Method:
    name: MethodName
    weight_update: WeightUpdate = WeightUpdate.none
    mode: Mode = Mode.accumulated
    reading: Reading = Reading.own_terms
    perturbation: Perturbation = Perturbation.domain_shift
    comparison_group: Scope | None = None
    """Among which weights of a matrix scores are compared; None: as in the method's paper."""
    admm: AdmmConfig = field(default_factory=AdmmConfig)
    sparsegpt: SparseGptConfig = field(default_factory=SparseGptConfig)
    alps: AlpsConfig = field(default_factory=AlpsConfig)

    @property
    def scope(self) -> Scope:
        return self.comparison_group or OWN_SCOPE[self.name]

    @property
    def updates_after(self) -> bool:
        """Whether the kept weights are solved for once the method has chosen them."""
        return self.weight_update is WeightUpdate.admm and self.name is not MethodName.admm

    @property
    def squared_scores(self) -> bool:
        """Whether a weight twice as large has a score four times as high, not two times."""
        return self.name is MethodName.copal and self.reading is Reading.own_terms

    @property
    def updates_weights(self) -> bool:
        """Whether kept weights change at all, for which the Gram is needed."""
        return self.name in SOLVING or self.updates_after

    @property
    def solver(self) -> str:
        """What a record says: the method, and what follows its selection."""
        return f"{self.name}+admm" if self.updates_after else str(self.name)

    def named(self, name: MethodName | None) -> "Method":
        """The method of a matrix whose override names another one: the job's settings, that selection or solver.

        Weights are compared as is that method's own habit. A selection is followed by the job's `weight_update`
        where the job's own method is a selection too. None: this very method.
        """
        if name is None or name is self.name:
            return self
        plain, own = (Method.read(Fields({"name": each.value})) for each in (name, self.name))
        update = plain.weight_update
        if update is WeightUpdate.none and own.weight_update is WeightUpdate.none:
            update = self.weight_update
        return replace(self, name=name, weight_update=update, comparison_group=plain.comparison_group)

    @classmethod
    def read(cls, fields: Fields) -> "Method":
        name = fields.choice("name", MethodName)
        implied = WeightUpdate.admm if name is MethodName.admm else WeightUpdate.none
        method = cls(
            name=name,
            weight_update=fields.choice("weight_update", WeightUpdate, implied),
            mode=fields.choice("mode", Mode, cls.mode),
            comparison_group=fields.choice("comparison_group", Scope, OWN_SCOPE[name]),
        )
        if name is MethodName.admm and method.weight_update is WeightUpdate.none:
            raise SpecError(
                fields.at("weight_update"), "admm always updates the weights; leave it out or say admm"
            )
        method = replace(method, **_settings(method, fields))
        fields.finish()
        return method


def _settings(method: Method, fields: Fields) -> dict[str, Any]:
    """The settings that mean something for this method; asking for others is an error."""
    found: dict[str, Any] = {}
    if method.name is MethodName.copal:
        found["reading"] = fields.choice("reading", Reading, method.reading)
        found["perturbation"] = fields.choice("perturbation", Perturbation, method.perturbation)
    if method.name is MethodName.sparsegpt:
        found["sparsegpt"] = SparseGptConfig.read(fields.child("sparsegpt", optional=True))
    if method.name is MethodName.alps:
        found["alps"] = AlpsConfig.read(fields.child("alps", optional=True))
    if method.weight_update is WeightUpdate.admm:
        found["admm"] = AdmmConfig.read(fields.child("admm", optional=True))
    return found


REGEX_LENGTH = 300
"""Characters of an override's regular expression at most, as in the API."""


@dataclass(frozen=True)
class Override:
    """An exception for the matrices whose name in the checkpoint matches, as a whole; see `overrides.Verdict`."""

    field: str
    """JSON pointer, for errors."""
    match: str | None = None
    """Glob; this or `regex`."""
    regex: str | None = None
    """Regular expression in RE2's syntax."""
    target: float | None = None
    pattern: Pattern | None = None
    method: MethodName | None = None
    skip: bool = False

    @property
    def says(self) -> str:
        """What is to match, as written."""
        return self.match if self.match is not None else str(self.regex)

    @property
    def pointer(self) -> str:
        """To what is to match."""
        return f"{self.field}/{'regex' if self.match is None else 'match'}"

    @classmethod
    def read(cls, fields: Fields) -> "Override":
        override = cls(
            field=fields.pointer,
            match=fields.text("match", None),
            regex=fields.text("regex", None),
            target=fields.number("target", None, high=1.0),
            pattern=_pattern(fields, None),
            method=fields.choice("method", MethodName) if fields.raw("method") is not None else None,
            skip=fields.flag("skip", False),
        )
        fields.finish()
        if (override.match is None) == (override.regex is None):
            raise SpecError(fields.pointer, "needs exactly one of `match` (a glob) and `regex`")
        if override.regex is not None and len(override.regex) > REGEX_LENGTH:
            raise SpecError(fields.at("regex"), f"must have at most {REGEX_LENGTH} characters")
        asked = (override.target, override.pattern, override.method)
        if override.skip == any(value is not None for value in asked):
            raise SpecError(
                fields.pointer, "needs `skip` (true) alone, or some of `target`, `pattern` and `method`"
            )
        own = override.pattern.sparsity if override.pattern is not None else None
        if override.target is not None and own is not None and abs(override.target - own) > 1e-9:
            raise SpecError(fields.at("target"), f"pattern {override.pattern} sets it to {own}; leave it out")
        return override


def _pattern(fields: Fields, default: str | None) -> Pattern | None:
    text = fields.text("pattern", default)
    try:
        return None if text is None else Pattern.parse(text)
    except ValueError as error:
        raise SpecError(fields.at("pattern"), str(error)) from None


@dataclass(frozen=True)
class Sparsity:
    target: float
    pattern: Pattern
    overrides: tuple[Override, ...] = ()
    allocation: Allocation = Allocation.uniform

    @classmethod
    def read(cls, fields: Fields) -> "Sparsity":
        pattern = _pattern(fields, "unstructured") or Pattern()
        target = fields.number("target", pattern.sparsity, high=1.0)
        if target is None:
            raise SpecError(fields.at("target"), "is required for an unstructured pattern")
        usual = Allocation.error if pattern.sparsity is None else Allocation.uniform
        allocation = fields.choice("allocation", Allocation, usual)
        overrides = tuple(Override.read(item) for item in fields.children("overrides", optional=True))
        fields.finish()
        if pattern.sparsity is not None:
            if abs(target - pattern.sparsity) > 1e-9:
                raise SpecError(
                    fields.at("target"), f"pattern {pattern} sets it to {pattern.sparsity}; leave it out"
                )
            if allocation is not Allocation.uniform:
                raise SpecError(
                    fields.at("allocation"), f"pattern {pattern} fixes every rate; leave allocation out"
                )
            _refuse_open_rates(pattern, overrides)
        elif not 0 < target < 1:
            raise SpecError(fields.at("target"), "must be more than 0 and less than 1")
        return cls(target, pattern, overrides, allocation)


def _refuse_open_rates(pattern: Pattern, overrides: tuple[Override, ...]) -> None:
    """Under an n:m pattern nothing is shared out, so each rate must be said: by a pattern, or with no pattern."""
    for override in overrides:
        free = override.pattern is not None and override.pattern.sparsity is None
        if override.target is not None and override.pattern is None:
            message = f'pattern {pattern} sets every target; add "pattern": "unstructured", or choose another n:m'
            raise SpecError(f"{override.field}/target", message)
        if free and override.target is None:
            message = f"is required here: beside the job's pattern {pattern} there is no budget to share"
            raise SpecError(f"{override.field}/target", message)


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
        return cls(
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
