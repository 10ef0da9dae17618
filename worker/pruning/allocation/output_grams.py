"""How the loss's gradients by a matrix's outputs go together, E g gᵀ: what a survey's backward pass finds, what a
state file keeps, and their sum over domains."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor

from secateur.spec.output import Precision
from worker.pruning.methods.output_weighting import parts
from worker.pruning.model.checkpoint import read_file
from worker.pruning.model.graph import PrunableWeight
from worker.pruning.state.file import pack, read_document, unpack

KEY: Final = "output_grams"
"""In a state file's document: the matrices whose outputs are weighed. No token reached one without tensors."""


class GradientSums:
    """Σ g gᵀ over the tokens of a survey, by matrix and part of its outputs (see `parts`)."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {}

    def add(self, matrix: PrunableWeight, gradients: Tensor) -> None:
        """gradients: (tokens, out), float32."""
        if matrix.name not in self._sums:
            sizes = [rows.stop - rows.start for rows in parts(matrix.rows)]
            self._sums[matrix.name] = [gradients.new_zeros((size, size)) for size in sizes]
        for rows, total in zip(parts(matrix.rows), self._sums[matrix.name], strict=True):
            total.addmm_(gradients[:, rows].T, gradients[:, rows])

    def means(self, tokens: int) -> dict[str, list[Tensor]]:
        """Per token of the text, the sums being used up."""
        found, self._sums = self._sums, {}
        return {name: [total.div_(tokens) for total in totals] for name, totals in found.items()}


class OutputGrams:
    """Of one domain, by matrix, in a scratch file: memory must not grow with the blocks. weight: how much the
    domain counts.

    The file has no name, so that it is gone with the process however that ends.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._places: dict[str, tuple[int, list[int]]] = {}
        self.weight = 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, found: Mapping[str, Sequence[Tensor]]) -> None:
        """Part by part, (outputs, outputs), float32."""
        for name, grams in found.items():
            self._places[name] = (self._file.seek(0, os.SEEK_END), [len(gram) for gram in grams])
            for gram in grams:
                self._file.write(gram.cpu().contiguous().numpy().tobytes())

    def of(self, name: str, device: torch.device) -> list[Tensor] | None:
        """What was put, times the weight; None of a matrix that no token reached."""
        if name not in self._places:
            return None
        start, sizes = self._places[name]
        self._file.seek(start)
        read = (self._file.read(size**2 * torch.float32.itemsize) for size in sizes)
        found = [torch.frombuffer(bytearray(data), dtype=torch.float32) for data in read]
        return [each.view(size, size).to(device) * self.weight for each, size in zip(found, sizes, strict=True)]


def summed(
    own: OutputGrams, matrices: Sequence[PrunableWeight], before: Path | None, keeps: float, device: torch.device
) -> dict[str, list[Tensor]]:
    """Those of a block after one more domain. before: the state file with the sums so far, times `keeps`."""
    earlier = {} if before is None else read_output_grams(before, matrices, device)
    found = {}
    for matrix in matrices:
        now, then = own.of(matrix.name, device), earlier.get(matrix.name)
        if now is not None and then is not None:
            now = [one.add_(other, alpha=keeps) for one, other in zip(now, then, strict=True)]
        elif then is not None:
            now = [other.mul_(keeps) for other in then]
        if now is not None:
            found[matrix.name] = now
    return found


def stored_output_grams(
    grams: Mapping[str, Sequence[Tensor]], asked: Sequence[PrunableWeight], precision: Precision
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and part of the document for a state file, as the Grams of inputs are stored."""
    tensors: dict[str, Tensor] = {}
    for name, own in grams.items():
        diagonals = [gram.diagonal().clone() for gram in own]
        packed = [pack(gram, diagonal, precision) for gram, diagonal in zip(own, diagonals, strict=True)]
        triangle, diagonal = _names(name)
        tensors |= {triangle: torch.cat(packed).cpu(), diagonal: torch.cat(diagonals).cpu()}
    return tensors, {KEY: sorted(matrix.name for matrix in asked)} if asked else {}


def read_output_grams(
    path: Path, matrices: Sequence[PrunableWeight], device: torch.device
) -> dict[str, list[Tensor]]:
    """Those of a state file."""
    held = set(read_document(path).get(KEY, ()))
    wanted = [matrix for matrix in matrices if matrix.name in held]
    tensors = read_file(path, {name for matrix in wanted for name in _names(matrix.name)})
    found = {}
    for matrix in wanted:
        triangle, diagonal = (tensors.get(name) for name in _names(matrix.name))
        if triangle is not None and diagonal is not None:
            found[matrix.name] = _unpacked(triangle.to(device), diagonal.to(device))
    return found


def _unpacked(triangle: Tensor, diagonal: Tensor) -> list[Tensor]:
    found, start = [], 0
    for rows in parts(len(diagonal)):
        own = diagonal[rows]
        size = len(own) * (len(own) + 1) // 2
        found.append(unpack(triangle[start : start + size], own))
        start += size
    return found


def _names(matrix: str) -> tuple[str, str]:
    return f"{matrix}/output_gram", f"{matrix}/output_second"
