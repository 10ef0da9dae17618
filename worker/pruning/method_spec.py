"""Which method prunes, and with which settings: plain dataclasses, read from the engine's request."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from worker.pruning.errors import SpecError
from worker.pruning.fields import Fields
from worker.pruning.patterns import Scope


class MethodName(StrEnum):
    magnitude = "magnitude"
    wanda = "wanda"
    sparsegpt = "sparsegpt"
    admm = "admm"
    alps = "alps"
    auto = "auto"
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
    """Where COPAL's gradient is taken in absolute value; the formulas are in `methods.copal`."""

    own_terms = "own_terms"
    token = "token"  # noqa: S105 - a reading of the sensitivity per token, not a secret
    sample = "sample"
    dataset = "dataset"
    fisher = "fisher"


class Perturbation(StrEnum):
    relative = "relative"
    domain_shift = "domain_shift"


class Mask(StrEnum):
    """selected: the mask is the method's own. searched: ADMM looks for it while it solves, by the method's scores
    of the weights as they stand."""

    selected = "selected"
    searched = "searched"


class Objective(StrEnum):
    """What a lineage's sums of statistics are for."""

    mean = "mean"  # the lowest perplexity on average: every domain counts the same
    least_forgetting = "least_forgetting"  # what was learned counts more than what comes


class Schedule(StrEnum):
    immediate = "immediate"
    gradual = "gradual"


MAX_DAMPING = 100.0
MAX_RHO = 1e6
MAX_RECENCY = 4.0
RECENCY: Final = {Objective.mean: 1.0, Objective.least_forgetting: 2.0}
"""What the sums so far are multiplied by before a new domain is added."""


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
    MethodName.auto: Scope.layer,
    MethodName.copal: Scope.row,
}
"""The comparison group of each method's paper (COPAL: the measured winner)."""
SOLVING: Final = frozenset({MethodName.sparsegpt, MethodName.admm, MethodName.alps, MethodName.auto})
"""The methods that change the kept weights themselves."""


SCORING: Final = frozenset({MethodName.magnitude, MethodName.wanda, MethodName.copal})
"""The methods that give every weight a score and change none: ADMM may look for the mask by their scores."""


@dataclass(frozen=True)
class Method:
    name: MethodName
    weight_update: WeightUpdate = WeightUpdate.none
    mask: Mask = Mask.selected
    """How a weight update comes by its mask."""
    mode: Mode = Mode.accumulated
    reading: Reading = Reading.own_terms
    perturbation: Perturbation = Perturbation.domain_shift
    comparison_group: Scope | None = None
    """Among which weights of a matrix scores are compared; None: as in the method's paper."""
    recency: float | None = None
    """By what the sums so far are multiplied before a new domain is added; None: as the objective has it."""
    objective: Objective = Objective.mean
    admm: AdmmConfig = field(default_factory=AdmmConfig)
    sparsegpt: SparseGptConfig = field(default_factory=SparseGptConfig)
    alps: AlpsConfig = field(default_factory=AlpsConfig)

    @property
    def scope(self) -> Scope:
        return self.comparison_group or OWN_SCOPE[self.name]

    @property
    def keeps(self) -> float:
        """γ in sums ← γ · sums + weight · measured."""
        return RECENCY[self.objective] if self.recency is None else self.recency

    @property
    def updates_after(self) -> bool:
        """Whether the kept weights are solved for once the method has chosen them."""
        return self.weight_update is WeightUpdate.admm and self.name is not MethodName.admm

    @property
    def searches(self) -> bool:
        """Whether ADMM looks for the mask that the weights are then solved for, by this method's scores."""
        return self.updates_after and self.name in SCORING and self.mask is Mask.searched

    @property
    def squared_scores(self) -> bool:
        """Whether an output twice as large has scores four times as high, not two times; in |W0||dz| both factors
        double."""
        return self.name is MethodName.copal

    @property
    def needs_importance(self) -> bool:
        """Whether scores come from sums that only this reading and perturbation keep."""
        return self.name is MethodName.copal and self.reading is not Reading.own_terms

    @property
    def updates_weights(self) -> bool:
        """Whether kept weights change at all, for which the Gram is needed."""
        return self.name in SOLVING or self.updates_after

    @property
    def solver(self) -> str:
        """What a record says: the method, what follows its selection, and whether that looks for the mask."""
        return str(self.name) + "+admm" * self.updates_after + ":searched" * self.searches

    def named(self, name: MethodName | None) -> "Method":
        """The method of a matrix whose override names another one: the job's settings, that selection or solver.

        Weights are compared as is that method's own habit. The job's `weight_update` follows, unless its own
        method is `admm` or the named one is `admm` or `auto`. None: this very method.
        """
        if name is None or name is self.name:
            return self
        plain, own = (Method.read(Fields({"name": each.value})) for each in (name, self.name))
        update = plain.weight_update
        if update is WeightUpdate.none and own.weight_update is WeightUpdate.none and name is not MethodName.auto:
            update = self.weight_update
        return replace(self, name=name, weight_update=update, comparison_group=plain.comparison_group)

    def _refuse_idle_sums(self, fields: Fields) -> None:
        """Only sums over domains can be weighted: what would have no effect is an error."""
        if self.mode is Mode.accumulated:
            if self.recency is not None and self.objective is not Objective.mean:
                message = f"takes the place of what the objective {self.objective} implies; leave one of them out"
                raise SpecError(fields.at("recency"), message)
            return
        asked = {"recency": self.recency is not None, "objective": self.objective is not Objective.mean}
        for name in (name for name, said in asked.items() if said):
            message = f"has an effect in mode accumulated only, and mode is {self.mode}; leave it out"
            raise SpecError(fields.at(name), message)

    @classmethod
    def read(cls, fields: Fields) -> "Method":
        name = fields.choice("name", MethodName)
        implied = WeightUpdate.admm if name is MethodName.admm else WeightUpdate.none
        method = cls(
            name=name,
            weight_update=fields.choice("weight_update", WeightUpdate, implied),
            mode=fields.choice("mode", Mode, cls.mode),
            comparison_group=fields.choice("comparison_group", Scope, OWN_SCOPE[name]),
            recency=fields.number("recency", None, above=True, high=MAX_RECENCY),
            objective=fields.choice("objective", Objective, cls.objective),
        )
        method._refuse_idle_sums(fields)
        if name is MethodName.admm and method.weight_update is WeightUpdate.none:
            raise SpecError(
                fields.at("weight_update"), "admm always updates the weights; leave it out or say admm"
            )
        if name is MethodName.auto and fields.raw("weight_update") is not None:
            raise SpecError(fields.at("weight_update"), "auto's solvers update the weights; leave it out")
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
        if method.name in SCORING:
            found["mask"] = fields.choice("mask", Mask, method.mask)
    return found
