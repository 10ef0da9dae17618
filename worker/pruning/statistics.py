"""What a layer's input looked like on the calibration text, and the sums kept from domain to domain.

A group is the set of matrices that read one input. Measured: one domain. Accumulated: all domains so far, each
divided by its own number of tokens, so that a long domain does not outvote a short one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.pruning.checkpoint import read_file, read_metadata
from worker.pruning.finite import all_finite
from worker.pruning.lineage_spec import Precision

STRIPS = 4
StateContent = tuple[dict[str, Tensor], tuple[str, str]]
"""Tensors and metadata of a state file."""
ROWS = 256
"""Rows of a Gram handled at once where a whole second Gram is not worth its memory."""


@dataclass(frozen=True)
class Measured:
    """One domain's statistics of one group, per token.

    gram: XᵀX / tokens, (in, in), float32; of the first tokens only, where nothing is solved with it. mean: (in,),
    float32. importance: per matrix (out, in), what a reading of COPAL sums up, / tokens (see `methods.copal`);
    none where the scores come from the moments. squares: E x² of all tokens, (in,), where the Gram is of a part.
    """

    gram: Tensor
    mean: Tensor
    tokens: int
    importance: dict[str, Tensor]
    squares: Tensor | None = None

    @property
    def second(self) -> Tensor:
        """E x², (in,)."""
        return self.gram.diagonal().clone() if self.squares is None else self.squares

    @property
    def finite(self) -> bool:
        return all_finite(self.gram) and all_finite(self.second)


@dataclass(frozen=True)
class Inputs:
    """What is known of one group's inputs.

    sums: what is solved on. measured: this domain's part of them. held_out: the windows of this domain that are in
    neither, None when there are none.
    """

    sums: "Accumulated"
    measured: Measured
    held_out: Measured | None


@dataclass(frozen=True)
class Accumulated:
    """Σ over domains. gram is None for methods that never solve with it; shift is Σ E dx², with dx = x − the
    unweighted mean of the earlier domains' mean inputs, and dx = x in the first domain."""

    gram: Tensor | None
    second: Tensor
    shift: Tensor
    mean: Tensor
    domains: int
    tokens: int
    importance: dict[str, Tensor]

    @property
    def dead(self) -> Tensor:
        """Inputs that were never anything but zero, (in,)."""
        return self.second == 0


def accumulate(
    previous: Accumulated | None,
    measured: Measured,
    *,
    keep_gram: bool,
    weight: float = 1.0,
    keeps: float = 1.0,
) -> Accumulated:
    """The sums after one more domain, keeps · sums + weight · measured. Its data are not needed again.

    The means and counts are of the domains as they are: every one counts once.
    """
    second = measured.second
    shift = second
    if previous is not None:
        earlier = previous.mean / previous.domains
        shift = (second - 2 * earlier * measured.mean + earlier**2).clamp_min(0)
    gram = measured.gram * weight if keep_gram else None
    own = measured.importance
    if weight != 1:  # matrices of the weights' size: no copy without need
        own = {name: value * weight for name, value in own.items()}
    if previous is None:
        return Accumulated(gram, second * weight, shift * weight, measured.mean, 1, measured.tokens, own)
    if gram is not None and previous.gram is not None:
        gram += previous.gram if keeps == 1 else previous.gram * keeps
    return Accumulated(
        gram=gram,
        second=previous.second * keeps + second * weight,
        shift=previous.shift * keeps + shift * weight,
        mean=previous.mean + measured.mean,
        domains=previous.domains + 1,
        tokens=previous.tokens + measured.tokens,
        importance={name: value + previous.importance[name] * keeps for name, value in own.items()},
    )


class Accumulator:
    """Sums of one group over the batches of one domain.

    gram_tokens: batches go into the Gram until it has so many tokens; None: all of them.
    """

    def __init__(self, width: int, device: torch.device, gram_tokens: int | None = None) -> None:
        self.gram = torch.zeros((width, width), device=device)
        self.total = torch.zeros(width, device=device, dtype=torch.float64)
        self.squares = None if gram_tokens is None else torch.zeros_like(self.total)
        self.tokens = self.in_gram = 0
        self.gram_tokens = math.inf if gram_tokens is None else gram_tokens
        self.importance: dict[str, Tensor] = {}

    def add(self, inputs: Tensor) -> None:
        """inputs: (tokens, in)."""
        if self.in_gram < self.gram_tokens:
            self._add_products(inputs)
        if self.squares is not None:
            self.squares += inputs.square().sum(dim=0, dtype=torch.float64)
        self.total += inputs.sum(dim=0, dtype=torch.float64)
        self.tokens += inputs.shape[0]

    def _add_products(self, inputs: Tensor) -> None:
        # A Gram is symmetric: strips from the diagonal to the right save a third of the products.
        for rows in _strips(len(self.gram)):
            self.gram[rows, rows.start :].addmm_(inputs[:, rows].T, inputs[:, rows.start :])
        self.in_gram += inputs.shape[0]

    def add_importance(self, name: str, part: Tensor) -> None:
        """part: what a batch adds to the sum of the matrix of that name, (out, in)."""
        self.importance[name] = self.importance[name].add_(part) if name in self.importance else part

    def measured(self) -> Measured:
        """The means; the sums are used up."""
        tokens = max(self.tokens, 1)
        return Measured(
            gram=_mirror(self.gram).div_(max(self.in_gram, 1)),
            mean=(self.total / tokens).float(),
            tokens=self.tokens,
            importance={name: value / tokens for name, value in self.importance.items()},
            squares=None if self.squares is None else (self.squares / tokens).float(),
        )


def _mirror(gram: Tensor) -> Tensor:
    """Copy the upper triangle to the lower one, in place."""
    for start in range(0, len(gram), ROWS):
        rows = slice(start, start + ROWS)
        corner = gram[rows, rows]
        corner.copy_(corner.triu() + corner.triu(1).T)
        gram[start + ROWS :, rows] = gram[rows, start + ROWS :].T
    return gram


def relative_error(weight: Tensor, dense: Tensor, gram: Tensor) -> float | None:
    """‖X(W − W0)ᵀ‖² / ‖X W0ᵀ‖², from the Gram of X; None where the dense output is all zero.

    weight, dense: (out, in); gram: (in, in), on any scale.
    """
    return relative_errors(weight, dense, [gram])[0]


def relative_errors(weight: Tensor, dense: Tensor, grams: Sequence[Tensor]) -> list[float | None]:
    """The same under several Grams, which costs hardly more than under one."""
    lost = weight - dense
    forms = zip(quadratic_forms(dense, grams), quadratic_forms(lost, grams), strict=True)
    found: list[float | None] = []
    for gram, (whole, rest) in zip(grams, forms, strict=True):
        if not math.isfinite(whole + rest):
            # Squares of large inputs times squares of large weights can leave float32.
            whole, rest = (quadratic_forms(part.double(), [gram.double()])[0] for part in (dense, lost))
        found.append(max(rest / whole, 0.0) if whole > 0 else None)
    return found


def quadratic_forms(weight: Tensor, grams: Sequence[Tensor]) -> list[float]:
    """‖X Wᵀ‖² = tr(W H Wᵀ) for each Gram H, summed in float64. weight: (out, in); grams: (in, in), symmetric.

    As Σ (WᵀW ⊙ H): all products are WᵀW's, once for all Grams, and of a symmetric matrix only those from the
    diagonal blocks to the right.
    """
    totals = [0.0] * len(grams)
    for rows in _strips(weight.shape[1]):
        product = weight[:, rows].T @ weight[:, rows.start :]
        for index, gram in enumerate(grams):
            terms = product * gram[rows, rows.start :]
            corner = terms[:, : rows.stop - rows.start]
            totals[index] += float(2 * terms.sum(dtype=torch.float64) - corner.sum(dtype=torch.float64))
    return totals


def _strips(width: int) -> list[slice]:
    step = -(-width // STRIPS)
    return [slice(start, min(start + step, width)) for start in range(0, width, step)]


def state_content(
    groups: dict[str, Accumulated],
    document: dict[str, Any],
    others: Mapping[str, Tensor] | None = None,
    precision: Precision = Precision.float16,
) -> StateContent:
    """One block's sums as a state file holds them, plus a JSON document (records of the stages so far).

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
        }
        for part in ("second", "shift", "mean"):
            tensors[f"{name}/{part}"] = getattr(sums, part).cpu()
        if sums.gram is not None:
            tensors[f"{name}/gram"] = pack(sums.gram, sums.second, precision).cpu()
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
        gram = unpack(tensors[f"{name}/gram"], sums.second) if counts["gram"] else None
        groups[name] = replace(sums, gram=gram)
    return groups


def _tensors(group: str, counts: dict[str, Any]) -> list[str]:
    """The names of a group's sums in a state file."""
    parts = ["second", "shift", "mean", *(["gram"] if counts["gram"] else [])]
    importance = [f"{matrix}/importance" for matrix in counts["importance"]]
    return [*(f"{group}/{part}" for part in parts), *importance]


def pack(gram: Tensor, diagonal: Tensor, precision: Precision = Precision.float16) -> Tensor:
    """The upper triangle, row by row. gram: (in, in), float32; diagonal: its diagonal.

    float32: of the Gram itself, bit for bit. float16: of its correlations, gram / sqrt(d dᵀ); half a thousandth of
    a correlation is far below the damping of any solver here.
    """
    scale = diagonal.sqrt().reciprocal().masked_fill(diagonal == 0, 0.0)
    packed = []
    for start in range(0, len(gram), ROWS):
        strip = gram[start : start + ROWS]
        if precision is Precision.float16:
            strip = (strip * scale * scale[start : start + ROWS, None]).half()
        packed.append(torch.cat([row[start + index :] for index, row in enumerate(strip)]))
    return torch.cat(packed)


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
    return _mirror(gram)
