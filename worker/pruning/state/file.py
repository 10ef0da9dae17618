"""State files: the sums that go from domain to domain, a file a block, with a JSON document beside them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.spec.job import Precision
from worker.pruning.model.checkpoint import read_file, read_metadata
from worker.pruning.state.moments import ROWS, Accumulated, mirror

StateContent = tuple[dict[str, Tensor], tuple[str, str]]
"""Tensors and metadata of a state file."""
ROUNDING = 2.0**-11
"""What float16 can make of a correlation, next to one."""


def state_content(
    groups: dict[str, Accumulated],
    document: dict[str, Any],
    others: Mapping[str, Tensor] | None = None,
    precision: Precision = Precision.float16,
) -> StateContent:
    """One block's sums as a state file holds them, plus a JSON document that says what they are.

    others: tensors to keep beside them, under their own names. precision: of the Grams, see `pack`.
    """
    tensors: dict[str, Tensor] = dict(others or {})
    counts = {}
    for name, sums in groups.items():
        counts[name] = {
            "domains": sums.domains,
            "tokens": sums.tokens,
            "gram": sums.gram is not None,
            "importance": sorted(sums.importance),
        } | ({} if sums.cross is None else {"cross": True})
        for part in ("second", "shift", "mean"):
            tensors[f"{name}/{part}"] = getattr(sums, part).cpu()
        if sums.gram is not None:
            tensors[f"{name}/gram"] = pack(sums.gram, sums.second, precision).cpu()
        if sums.cross is not None:
            for part, value in pack_cross(sums.cross, sums.second, precision).items():
                tensors[f"{name}/{part}"] = value.cpu()
        for matrix, value in sums.importance.items():
            tensors[f"{matrix}/importance"] = value.cpu()
    text = json.dumps({"groups": counts, **document}, sort_keys=True, allow_nan=False)
    return tensors, ("secateur", text)


def read_document(path: Path) -> dict[str, Any]:
    """The JSON document of a state file."""
    document: dict[str, Any] = json.loads(read_metadata(path)["secateur"])
    return document


def read_state(path: Path, device: torch.device) -> dict[str, Accumulated]:
    """The sums of a state file, by group."""
    document = read_document(path)
    names = {part for name, counts in document["groups"].items() for part in _tensors(name, counts)}
    tensors = {name: tensor.to(device) for name, tensor in read_file(path, names).items()}
    groups = {}
    for name, counts in document["groups"].items():
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
    for start in range(0, len(gram), ROWS):
        strip = gram[start : start + ROWS]
        if precision is Precision.float16:
            strip = (strip * scale * scale[start : start + ROWS, None]).half()
        packed.append(torch.cat([row[start + index :] for index, row in enumerate(strip)]))
    return torch.cat(packed)


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
    gram = torch.zeros((width, width), device=packed.device)
    start = 0
    for index in range(width):
        gram[index, index:] = packed[start : start + width - index]
        start += width - index
    if packed.dtype == torch.float16:
        gram *= root
        gram *= root.unsqueeze(1)
        gram.diagonal().copy_(diagonal)
    return mirror(gram)
