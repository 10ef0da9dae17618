"""State files: the sums that go from domain to domain, a file a block, with a JSON document beside them."""

import json
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.spec.output import Precision
from worker.pruning.model.checkpoint import read_file, read_metadata
from worker.pruning.runtime.numerics import in_any_order
from worker.pruning.state.moments import Accumulated, mirror, parts_of

StateContent = tuple[dict[str, Tensor], tuple[str, str]]
"""Tensors and metadata of a state file."""
ROUNDING = 2.0**-11
"""What float16 can make of a correlation, next to one."""


class StateParts:
    """A block's sums as a state file holds them, put together group by group.

    precision: of the Grams, see `pack`. keep: where a tensor is to stay until the file is written, if not simply
    on the CPU.
    """

    def __init__(self, precision: Precision, keep: Callable[[Tensor], Tensor] | None = None) -> None:
        self._precision, self._keep = precision, keep
        self._tensors: dict[str, Tensor] = {}
        self.groups: dict[str, dict[str, Any]] = {}

    def add(self, groups: Mapping[str, Accumulated]) -> None:
        for name, sums in groups.items():
            self.groups[name] = {
                "domains": sums.domains,
                "tokens": sums.tokens,
                "gram": sums.gram is not None,
                "importance": sorted(sums.importance),
            } | ({} if sums.cross is None else {"cross": True})
            found = {part: getattr(sums, part) for part in ("second", "shift", "mean")}
            if sums.gram is not None:
                found["gram"] = pack(sums.gram, sums.second, self._precision)
            if sums.cross is not None:
                found |= pack_cross(sums.cross, sums.second, self._precision)
            self.add_tensors({f"{name}/{part}": value for part, value in found.items()})
            self.add_tensors({f"{matrix}/importance": value for matrix, value in sums.importance.items()})

    def add_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Others, under their own names."""
        self._tensors |= {name: (self._keep or _on_cpu)(tensor) for name, tensor in tensors.items()}

    def content(self, document: Mapping[str, Any]) -> StateContent:
        """With a JSON document that says what they are."""
        text = json.dumps({"groups": self.groups, **document}, sort_keys=True, allow_nan=False)
        return self._tensors, ("secateur", text)


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.cpu()


def state_content(
    groups: Mapping[str, Accumulated],
    document: Mapping[str, Any],
    precision: Precision = Precision.float16,
) -> StateContent:
    """Of sums that are there at once, see `StateParts`."""
    parts = StateParts(precision)
    parts.add(groups)
    return parts.content(document)


def read_document(path: Path) -> dict[str, Any]:
    """The JSON document of a state file."""
    document: dict[str, Any] = json.loads(read_metadata(path)["secateur"])
    return document


def read_state(path: Path, device: torch.device, wanted: Container[str] | None = None) -> dict[str, Accumulated]:
    """The sums of a state file, by group. wanted: which groups; None: all."""
    held = read_document(path)["groups"]
    asked = {name: counts for name, counts in held.items() if wanted is None or name in wanted}
    names = {part for name, counts in asked.items() for part in _tensors(name, counts)}
    tensors = {name: tensor.to(device) for name, tensor in read_file(path, names).items()}
    groups = {}
    for name, counts in asked.items():
        sums = Accumulated(
            gram=None,
            second=tensors[f"{name}/second"],
            shift=tensors[f"{name}/shift"],
            mean=tensors[f"{name}/mean"],
            domains=counts["domains"],
            tokens=counts["tokens"],
            importance={matrix: tensors[f"{matrix}/importance"] for matrix in counts["importance"]},
        )
        if counts["gram"]:
            sums = replace(sums, gram=_solvable(tensors[f"{name}/gram"], sums.second))
        if counts.get("cross"):
            rows, packed = tensors[f"{name}/cross_rows"], tensors[f"{name}/cross"]
            sums = replace(sums, cross=unpack_cross(packed, rows, sums.second))
        groups[name] = sums
    return groups


def _solvable(packed: Tensor, diagonal: Tensor) -> Tensor:
    """The Gram that `pack` stored, to solve with. From float16 its diagonal gets `ROUNDING` of itself on top.

    Where a few inputs dominate and go together, rounded correlations are those of no real inputs, and a solver
    whose damping is a part of the mean diagonal would meet directions of negative energy.
    """
    gram = unpack(packed, diagonal)
    if packed.dtype == torch.float16:
        gram.diagonal().mul_(1 + ROUNDING)
    return gram


def _tensors(group: str, counts: dict[str, Any]) -> list[str]:
    """The names of a group's sums in a state file."""
    parts = ["second", "shift", "mean", *(["gram"] if counts["gram"] else [])]
    parts += ["cross", "cross_rows"] if counts.get("cross") else []
    importance = [f"{matrix}/importance" for matrix in counts["importance"]]
    return [*(f"{group}/{part}" for part in parts), *importance]


def pack(gram: Tensor, diagonal: Tensor, precision: Precision = Precision.float16) -> Tensor:
    """The upper triangle, row by row. gram: (in, in), float32; diagonal: its diagonal.

    float32: of the Gram itself, bit for bit. float16: of its correlations, gram / sqrt(d dᵀ), each within half a
    thousandth of itself.
    """
    scale = diagonal.sqrt().reciprocal().masked_fill(diagonal == 0, 0.0)
    packed = []
    for rows in parts_of(len(gram)):
        strip = gram[rows, rows.start :]
        if precision is Precision.float16:
            strip = (strip * scale[rows.start :] * scale[rows, None]).half()
        places, size = _places(rows, len(gram), gram.device)
        # What is below the diagonal all goes to one place behind the others.
        triangle = torch.empty(size + 1, dtype=strip.dtype, device=strip.device)
        below = torch.ones_like(strip, dtype=torch.bool).tril(-1)
        with in_any_order():
            triangle.scatter_(0, places.masked_fill_(below, size).flatten(), strip.flatten())
        packed.append(triangle[:size])
    return torch.cat(packed)


def _places(rows: slice, width: int, device: torch.device) -> tuple[Tensor, int]:
    """Where the entries of some rows, from the first row's diagonal to the right, are in these rows' part of the
    triangle, and how many that part has. Of an entry below the diagonal the place means nothing."""
    height = rows.stop - rows.start
    row = torch.arange(height, device=device).unsqueeze(1)
    column = torch.arange(width - rows.start, device=device)
    left = width - rows.start
    return row * left - row * (row + 1) // 2 + column, height * left - height * (height - 1) // 2


def pack_cross(cross: Tensor, diagonal: Tensor, precision: Precision = Precision.float16) -> dict[str, Tensor]:
    """(Y − X)ᵀX as `cross`, (in, in), and what its rows are multiplied by, `cross_rows`, (in,), float32.

    diagonal: the Gram's. float32: itself, bit for bit, and ones. float16: divided by the inputs' norms along its
    rows, and each row by its largest entry, next to which each is within half a thousandth of itself or 3·10⁻⁸.
    """
    if precision is Precision.float32:
        return {"cross": cross, "cross_rows": torch.ones_like(diagonal)}
    normal = cross * diagonal.rsqrt().masked_fill_(diagonal == 0, 0.0)
    rows = normal.abs().amax(dim=1)
    return {"cross": normal.div_(rows.masked_fill(rows == 0, 1.0).unsqueeze(1)).half(), "cross_rows": rows}


def unpack_cross(packed: Tensor, rows: Tensor, diagonal: Tensor) -> Tensor:
    """What `pack_cross` stored, (in, in), float32; its dtype says how."""
    if packed.dtype == torch.float32:
        return packed
    return packed.float().mul_(rows.unsqueeze(1)).mul_(diagonal.sqrt())


def unpack(packed: Tensor, diagonal: Tensor) -> Tensor:
    """The Gram that `pack` stored, (in, in), float32, symmetric, with its diagonal exact; its dtype says how."""
    width, root = diagonal.numel(), diagonal.sqrt()
    gram = torch.empty((width, width), device=packed.device)
    start = 0
    for rows in parts_of(width):
        places, size = _places(rows, width, packed.device)
        gram[rows, rows.start :] = packed[start : start + size].take(places.clamp_min_(0))
        start += size
    if packed.dtype == torch.float16:
        gram *= root
        gram *= root.unsqueeze(1)
        gram.diagonal().copy_(diagonal)
    return mirror(gram)
