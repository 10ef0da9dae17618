"""Proves what a written checkpoint is: zeros of every matrix, its pattern, and that it is what its report says.

    python -m worker.pruning.verify FOLDER [--report FILE] [--pattern 2:4] [--target 0.5]

FOLDER is a model's folder, or a job's artifacts with `model/` in it. Without --pattern and --target it is held
against its report (report.json in FOLDER or beside it). A packed folder is unpacked beside itself for as long as
it takes; masks take the dense model's folder, --base DENSE. Exit status: 0 all holds, 1 something differs, 2 it
cannot be checked.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.packed import Base, PackError, unpack_folder
from secateur.packed.folder import SUFFIX
from secateur.packed.format import PREFIX
from secateur.spec.sparsity import Pattern, further_folder
from worker.pruning.errors import UserError
from worker.pruning.methods.masks import follows
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import build_graph
from worker.pruning.report.report import REPORT
from worker.pruning.state.digests import FINGERPRINTS, mask_sha256, total, weights_sha256
from worker.pruning.targets.budget import exact

TOTALS = ("weights", "zeros", "masks_sha256", "weights_sha256")
"""Of a report's summary, what the files can prove; the digests in the order of FINGERPRINTS."""
FURTHER = Path(further_folder("")).name
"""The folder of an artifact that has the models of further targets."""


@dataclass(frozen=True)
class Expected:
    """What one matrix should be. zeros None: any number. fingerprints: those that are known."""

    shape: tuple[int, int]
    """(out, in), whichever way the checkpoint stores it."""
    pattern: Pattern
    zeros: int | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """matrix None: the checkpoint as a whole."""

    matrix: str | None
    what: str
    expected: str
    found: str

    @classmethod
    def of(cls, matrix: str | None, what: str, expected: object, found: object) -> "list[Difference]":
        return [] if expected == found else [cls(matrix, what, str(expected), str(found))]

    def __str__(self) -> str:
        return f"{self.matrix or 'checkpoint'}: {self.what}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class Verification:
    """Zeros are counted in the files. Without differences, the checkpoint is what it should be."""

    matrices: int
    weights: int
    zeros: int
    differences: tuple[Difference, ...]


def verify_report(folder: Path, report: dict[str, Any], place: Path | None = None) -> Verification:
    """Hold a model's folder against its job's report: every matrix's shape, zeros and pattern, totals, digests. A
    folder `targets/NAME/model` is that of a further target. place: where the model is, if `folder` is a copy.

    Tensors are read one at a time. Raises UserError for what is neither a checkpoint nor a report.
    """
    place = place or folder
    expected, summary = _expectations(report, place.parent if _is_further(place) else None)
    found, totals = _check(folder, expected)
    wrong = (Difference.of(None, name, summary[name], value) for name, value in totals.items())
    return replace(found, differences=(*found.differences, *chain.from_iterable(wrong)))


def verify_pattern(folder: Path, pattern: Pattern, target: float | None = None) -> Verification:
    """Hold every prunable matrix against one pattern, and the zeros of all of them together against a target."""
    matrices = build_graph(folder, Checkpoint.open(folder)).matrices
    expected = {matrix.name: Expected((matrix.rows, matrix.columns), pattern) for matrix in matrices}
    found, _ = _check(folder, expected)
    if target is None:
        return found
    wrong = Difference.of(None, "zeros", round(exact(target) * found.weights), found.zeros)
    return replace(found, differences=(*found.differences, *wrong))


def _check(folder: Path, expected: Mapping[str, Expected]) -> tuple[Verification, dict[str, object]]:
    """One pass over the matrices of a folder, and their totals as in a report's summary."""
    checkpoint = Checkpoint.open(folder)
    # The graph knows which matrices are stored as (in, out); their groups run along the inputs all the same.
    known = {matrix.name: matrix for matrix in build_graph(folder, checkpoint).matrices}
    weights = zeros = 0
    digests: list[dict[str, str]] = []
    differences: list[Difference] = []
    for name, wanted in sorted(expected.items()):
        if (matrix := known.get(name)) is None:
            differences.append(Difference(name, "tensor", "a matrix inside a decoder block", "none"))
            continue
        stored = checkpoint.read_slice(matrix.tensor, matrix.slice)
        digests.append(
            {"matrix": name, "mask_sha256": mask_sha256(stored), "weights_sha256": weights_sha256(stored)}
        )
        zero = stored.numel() - int(torch.count_nonzero(stored))
        weights, zeros = weights + stored.numel(), zeros + zero
        weight = stored.T if matrix.transposed else stored
        differences += _differences(name, wanted, weight, {**digests[-1], "zeros": zero})
    found = Verification(len(expected), weights, zeros, tuple(differences))
    return found, dict(
        zip(TOTALS, (weights, zeros, *(total(digests, kind) for kind in FINGERPRINTS)), strict=True)
    )


def _differences(name: str, wanted: Expected, weight: Tensor, found: Mapping[str, object]) -> Iterator[Difference]:
    """weight: (out, in)."""
    for kind, digest in wanted.fingerprints.items():
        yield from Difference.of(name, kind, digest, found[kind])
    yield from Difference.of(name, "shape (out, in)", wanted.shape, tuple(weight.shape))
    if not bool(torch.isfinite(weight).all()):
        yield Difference(name, "values", "finite numbers", "NaN or infinity")
    if wanted.zeros is not None:
        yield from Difference.of(name, "zeros", wanted.zeros, found["zeros"])
    if not follows(weight, wanted.pattern):
        yield Difference(name, "pattern", str(wanted.pattern), _violations(weight, wanted.pattern))


def _violations(weight: Tensor, pattern: Pattern) -> str:
    """How many groups hold too much, and where the first one is. weight: (out, in)."""
    if pattern.group is None or weight.shape[1] % pattern.group:
        return f"{weight.shape[1]} inputs, which it does not divide"
    filled = (weight.reshape(len(weight), -1, pattern.group) != 0).sum(dim=2)
    wrong = (filled > (pattern.kept or 0)).nonzero()
    row, group = (int(index) for index in wrong[0])
    first = f"row {row}, inputs {group * pattern.group} to {(group + 1) * pattern.group - 1}"
    return f"{len(wrong)} groups with more non-zeros, the first at {first}"


def _is_further(model: Path) -> bool:
    return model.parent.parent.name == FURTHER


def _expectations(report: dict[str, Any], further: Path | None) -> tuple[dict[str, Expected], dict[str, Any]]:
    """By matrix, from a stage's records, and the totals: those of the last domain, or of a further target, by the
    folder that its `model` lies in."""
    try:
        stage, totals = len(report["domains"]) - 1, report["summary"]
        if further is not None:
            asked = [further_folder(each) for each in report["sparsity"]["further"]]
            stage += 1 + asked.index(f"{FURTHER}/{further.name}")
            totals = report["stages"][stage]
        expected = {
            str(record["matrix"]): Expected(
                (record["rows"], record["columns"]),
                Pattern.parse(record["pattern"]),
                int(record["zeros"]),
                {kind: str(record[kind]) for kind in FINGERPRINTS},
            )
            for record in report["matrices"][stage]
        }
        summary = {key: totals[key] for key in TOTALS}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError("invalid_report", f"{REPORT} is not the report of a pruning job: {error!r}") from None
    return expected, summary


def locate(folder: Path, report: Path | None) -> tuple[Path, Path]:
    """The model's folder, and where its report is: named, in the folder, beside it, or beside all targets'."""
    model = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    beside = [model, model.parent, *([model.parent.parent.parent] if _is_further(model) else [])]
    places = [report] if report else [each / REPORT for each in beside]
    return model, next((place for place in places if place.is_file()), places[0])


def _read(report: Path) -> dict[str, Any]:
    try:
        content = json.loads(report.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("invalid_report", f"{report} cannot be read: {error}; name a --pattern instead") from None
    if not isinstance(content, dict):
        raise UserError("invalid_report", f"{report} is not a JSON object")
    return content


@contextmanager
def _dense(model: Path, base: Path | None) -> Iterator[Path]:
    """The folder of a model, unpacked where it is packed. Raises PackError."""
    if not any(model.glob(f"{PREFIX}*{SUFFIX}")):
        yield model
        return
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        unpack_folder(model, Path(folder), Base.open(base, "base") if base is not None else None)
        yield Path(folder)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m worker.pruning.verify", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="a model's folder, or a job's artifacts")
    parser.add_argument("--report", type=Path, help="its report.json, where it is elsewhere")
    parser.add_argument("--base", type=Path, help="the dense model's folder, for masks")
    parser.add_argument("--pattern", type=Pattern.parse, help="hold every matrix against this pattern instead")
    parser.add_argument("--target", type=float, help="and all of them together against this sparsity")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args(arguments)


def _lines(found: Verification) -> Iterator[str]:
    yield from map(str, found.differences)
    share = found.zeros / found.weights if found.weights else 0.0
    verdict = f"{len(found.differences)} differences" if found.differences else "as it should be"
    yield f"{found.matrices} matrices, {found.zeros} of {found.weights} weights are zero ({share:.4%}): {verdict}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _arguments(arguments)
    model, report = locate(options.folder, options.report)
    try:
        with _dense(model, options.base) as dense:
            if options.pattern is not None or options.target is not None:
                found = verify_pattern(dense, options.pattern or Pattern(), options.target)
            else:
                found = verify_report(dense, _read(report), model)
    except (UserError, PackError, OSError) as error:
        sys.stderr.write(f"cannot be checked: {error}\n")
        return 2
    text = json.dumps(asdict(found), indent=2) if options.json else "\n".join(_lines(found))
    sys.stdout.write(text + "\n")
    return 1 if found.differences else 0


if __name__ == "__main__":
    sys.exit(main())
