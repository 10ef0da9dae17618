"""The rows of the continual benchmark: which settings prune for which domains, in which order.

A row's name is SETTING/ORDER. ORDER is the domains' first letters (`wpc`), or `joint`: all texts at once. SETTING
is a method, with `:` before a variant of it and `@` before what is not the engine's default sparsity.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import permutations, product
from typing import Any

from pydantic import ValidationError

from benchmarks.rows import METHODS, filled
from secateur.spec.effort import Effort
from secateur.spec.job import Pruning
from secateur.spec.method import Perturbation, Reading, Scope

DOMAINS = {"w": "wikitext2", "p": "ptb", "c": "c4"}
CALIBRATIONS = {
    "wikitext2": ("wikitext2/calibration.txt", "txt"),
    "ptb": ("ptb/calibration.txt", "txt"),
    "c4": ("c4/calibration.jsonl", "jsonl"),
}
ORDERS = tuple("".join(letters) for letters in permutations(DOMAINS))
"""Orders that begin alike are neighbours, so that few shared stages are on disk at a time."""
JOINT = "joint"
HEADLINE = ("wanda", "copal", "admm", "copal+admm")
OTHERS = ("wanda+admm", "alps", "auto")
MAIN = ",".join(
    (
        *(f"{name}/*" for name in HEADLINE),
        *(f"{name}:restart/{ORDERS[0]}" for name in HEADLINE),
        *(f"{name}@2:4/*" for name in HEADLINE),
        *(f"copal:{reading}:{perturbation}/*" for reading, perturbation in product(Reading, Perturbation)),
    )
)
"""What is measured unless rows are named: the headline in every order, and what it is compared with in one."""
HALF: dict[str, Any] = {"target": 0.5}
UNIFORM: dict[str, Any] = HALF | {"allocation": "uniform"}


@dataclass(frozen=True)
class Setting:
    """How every stage of a row is pruned, as the engine's request says it."""

    name: str
    method: dict[str, Any]
    sparsity: dict[str, Any] = field(default_factory=lambda: HALF)
    output: dict[str, Any] = field(default_factory=dict)

    @property
    def restarts(self) -> bool:
        return self.method.get("mode") == "restart"

    @property
    def known(self) -> bool:
        """Whether this engine takes it."""
        asked = {"method": self.method, "sparsity": self.sparsity, "output": self.output}
        try:
            Pruning.model_validate(asked | {"domains": [{"name": "c4", "dataset": "c4"}]})
        except ValidationError:
            return False
        return True


@dataclass(frozen=True)
class Stage:
    """A model pruned for the domains in their order, whichever row it is in."""

    setting: Setting
    domains: tuple[str, ...]

    @property
    def before(self) -> "Stage | None":
        """The stage that this one continues."""
        return replace(self, domains=self.domains[:-1]) if len(self.domains) > 1 else None


@dataclass(frozen=True)
class Row:
    setting: Setting
    order: str

    @property
    def name(self) -> str:
        return f"{self.setting.name}/{self.order}"

    @property
    def domains(self) -> tuple[str, ...]:
        """One a stage."""
        return (JOINT,) if self.order == JOINT else tuple(DOMAINS[letter] for letter in self.order)

    @property
    def stages(self) -> list[Stage]:
        """In a restart every stage is that of a job with this one domain."""
        if self.setting.restarts:
            method = {key: value for key, value in self.setting.method.items() if key != "mode"}
            return [Stage(replace(self.setting, method=method), (domain,)) for domain in self.domains]
        return [Stage(self.setting, self.domains[: count + 1]) for count in range(len(self.domains))]


def all_rows() -> list[Row]:
    """The headline in every order with its joint ceiling and its restart; then what is measured in one order."""
    rows: list[Row] = []
    for name in HEADLINE:
        setting = Setting(name, METHODS[name])
        restart = Setting(f"{name}:restart", METHODS[name] | {"mode": "restart"})
        rows += [Row(setting, order) for order in (*ORDERS, JOINT)]
        rows += [Row(restart, order) for order in ORDERS]
    for setting in _by_effort():
        rows += [Row(setting, order) for order in (*ORDERS, JOINT)]
    return rows + [Row(setting, ORDERS[0]) for setting in (*_others(), *_readings())]


def _by_effort() -> Iterator[Setting]:
    """As jobs prune that ask for no more than the effort."""
    for effort in Effort:
        yield Setting(f"admm:{effort}", *filled(METHODS["admm"], HALF, effort))


def _others() -> Iterator[Setting]:
    for name in HEADLINE:
        yield Setting(f"{name}:sequential", METHODS[name] | {"mode": "sequential"})
    for name in HEADLINE:
        yield Setting(f"{name}@2:4", METHODS[name], {"pattern": "2:4"})
    for name in HEADLINE:
        yield Setting(f"{name}@uniform", METHODS[name], UNIFORM)
    for name in OTHERS:
        yield Setting(name, METHODS[name])
    yield Setting("copal+admm:searched", METHODS["copal+admm"] | {"mask": "searched"})
    yield Setting("admm:float32", METHODS["admm"], output={"state_precision": "float32"})
    yield Setting("admm:least_forgetting", METHODS["admm"] | {"objective": "least_forgetting"})


def _readings() -> Iterator[Setting]:
    """Under the default allocation rows are comparable, so the comparison group matters under `uniform` only."""
    for reading, perturbation in product(Reading, Perturbation):
        method = {"name": "copal", "reading": reading.value, "perturbation": perturbation.value}
        name = f"copal:{reading}:{perturbation}"
        yield Setting(name, method)
        for scope in (Scope.row, Scope.matrix):
            yield Setting(f"{name}:{scope}@uniform", method | {"comparison_group": scope.value}, UNIFORM)


def choose(globs: str, orders: str = "") -> list[Row]:
    """Rows whose name matches one of the comma-separated globs, of the comma-separated orders only (and the joint
    ones). Raises ValueError for a glob or an order that matches none."""
    wanted, kept = _items(globs), _items(orders) or list(ORDERS)
    for order in kept:
        if order not in ORDERS:
            raise ValueError(f"--orders: {order!r} is none of {', '.join(ORDERS)}")
    rows = all_rows()
    for glob in wanted:
        if not any(fnmatchcase(row.name, glob) for row in rows):
            raise ValueError(f"--rows: {glob!r} matches no row; --list names them all")
    return [
        row for row in rows if row.order in (*kept, JOINT) and any(fnmatchcase(row.name, glob) for glob in wanted)
    ]


def _items(listed: str) -> list[str]:
    return [item.strip() for item in listed.split(",") if item.strip()]
