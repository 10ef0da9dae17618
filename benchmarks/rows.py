"""The rows of the comparison: who prunes to which pattern by which method."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from secateur.spec.effort import Effort, with_preset
from secateur.spec.job import Pruning
from secateur.spec.sparsity import Allocation, Pattern, usual_allocation

PATTERNS: dict[str, dict[str, Any]] = {
    "50%": {"target": 0.5, "pattern": "unstructured"},
    "60%": {"target": 0.6, "pattern": "unstructured"},
    "70%": {"target": 0.7, "pattern": "unstructured"},
    "2:4": {"target": 0.5, "pattern": "2:4"},
    "4:8": {"target": 0.5, "pattern": "4:8"},
}
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"name": "magnitude"},
    "wanda": {"name": "wanda"},
    "wanda+admm": {"name": "wanda", "weight_update": "admm"},
    "copal": {"name": "copal"},
    "copal+admm": {"name": "copal", "weight_update": "admm"},
    "sparsegpt": {"name": "sparsegpt"},
    "admm": {"name": "admm"},
    "alps": {"name": "alps"},
    "auto": {"name": "auto"},
}
COMPARED = ("magnitude", "wanda", "sparsegpt", "admm", "alps", "auto")
ALLOCATED = ("wanda", "admm", "alps")
"""Methods that are measured under every allocation, not only under the engine's own choice."""
PEERS = ("llmcompressor-sparsegpt", "llmcompressor-wanda")
TIMED = {
    "50%/llmcompressor-sparsegpt": {"50%/admm:fast": 0.5, "50%/admm:standard": 1.0},
    "50%/llmcompressor-wanda": {"50%/wanda": 0.5, "50%/wanda@uniform": 0.5},
}
"""Rows of ours whose wall times are set against a peer's, by effort, or with its equal rates as well, and the
share of its time that each takes at the most."""


@dataclass(frozen=True)
class Row:
    """One model to measure. A name is PATTERN/METHOD, with :EFFORT where a preset fills it, or @ALLOCATION where
    that is not the engine's default."""

    name: str
    pattern: str = ""
    method: dict[str, Any] | None = None
    """Ours: the engine's method."""
    peer: str | None = None
    """Somebody else's algorithm, one of PEERS."""
    sparsity: dict[str, Any] | None = None
    """None: the dense model."""

    @property
    def known(self) -> bool:
        """Whether this engine has the method and takes the combination."""
        if self.method is None:
            return True
        asked = {"method": self.method, "sparsity": self.sparsity}
        try:
            Pruning.model_validate(asked | {"domains": [{"name": "c4", "dataset": "c4"}]})
        except ValidationError:
            return False
        return True


DENSE = Row("dense")


def all_rows() -> list[Row]:
    """The dense model first, then pattern by pattern: ours, then the peers."""
    rows = [DENSE]
    for pattern, sparsity in PATTERNS.items():
        for name in COMPARED:
            rows.append(Row(f"{pattern}/{name}", pattern, METHODS[name], None, sparsity))
            rows += _by_effort(pattern, name) if name == "admm" else []
            rows += _allocated(pattern, name) if name in ALLOCATED else []
        rows += [Row(f"{pattern}/{peer}", pattern, None, peer, sparsity) for peer in PEERS]
    return rows


def _by_effort(pattern: str, name: str) -> list[Row]:
    """As a job prunes that asks for no more than the effort."""
    found = []
    for effort in Effort:
        method, sparsity = filled(METHODS[name], PATTERNS[pattern], effort)
        found.append(Row(f"{pattern}/{name}:{effort}", pattern, method, None, sparsity))
    return found


def filled(
    method: dict[str, Any], sparsity: dict[str, Any], effort: Effort
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Method and sparsity with what a preset says where they say nothing."""
    found = with_preset({"method": method, "sparsity": sparsity}, effort)
    return found["method"], found["sparsity"]


def _allocated(pattern: str, name: str) -> list[Row]:
    if PATTERNS[pattern]["pattern"] != "unstructured":
        return []  # n:m fixes every rate
    others = [choice for choice in Allocation if choice is not usual_allocation(Pattern())]
    return [
        Row(
            f"{pattern}/{name}@{choice}",
            pattern,
            METHODS[name],
            None,
            PATTERNS[pattern] | {"allocation": choice.value},
        )
        for choice in others
    ]


def choose(globs: str) -> list[Row]:
    """Rows whose name matches one of the comma-separated globs. Raises ValueError for a glob that matches none."""
    rows, wanted = all_rows(), [item.strip() for item in globs.split(",") if item.strip()]
    for glob in wanted:
        if not any(fnmatchcase(row.name, glob) for row in rows):
            names = ", ".join(row.name for row in rows)
            raise ValueError(f"--rows: {glob!r} matches none of {names}")
    return [row for row in rows if any(fnmatchcase(row.name, glob) for glob in wanted)]


def engine_sources() -> list[Path]:
    """Every source file that can change what the engine does."""
    import worker.pruning
    from secateur import spec

    package = Path(worker.pruning.__file__).parent
    shared = sorted((package.parent / "model_files").glob("*.py"))
    specs = sorted(Path(spec.__path__[0]).rglob("*.py"))
    return [package.parent / "engine_format.py", *shared, *sorted(package.rglob("*.py")), *specs]
