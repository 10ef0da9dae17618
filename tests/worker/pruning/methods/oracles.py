"""What solvers are compared with: slow, obvious, in float64."""

import itertools

import numpy
import torch
from torch import Tensor

from secateur.spec.method import Method, Scope
from secateur.spec.sparsity import Pattern
from worker.pruning.methods.masks import Selection, Solution
from worker.pruning.methods.registry import prepare, scores, solve
from worker.pruning.state.moments import Accumulated


def gram_of(tokens: int, width: int, *, mixed: bool = True) -> Tensor:
    """The Gram of random inputs, correlated and of very different sizes when `mixed`."""
    inputs = torch.randn(tokens, width)
    if mixed:
        inputs = inputs @ torch.randn(width, width) * torch.linspace(0.2, 3, width)
    return inputs.T @ inputs / tokens


def output_error(weight: Tensor, dense: Tensor, gram: Tensor) -> float:
    """tr (W − W0) H (W − W0)ᵀ."""
    difference = weight.double() - dense.double()
    return float(((difference @ gram.double()) * difference).sum())


def least_squares(dense: Tensor, gram: Tensor, mask: Tensor) -> Tensor:
    """The minimum of `output_error` on a support, row by row by lstsq on a root of the (damped) Gram."""
    root = torch.linalg.cholesky(gram.double()).T
    result = torch.zeros_like(dense, dtype=torch.float64)
    for row, on in enumerate(mask):
        kept = on.nonzero().flatten()
        target = root @ dense[row].double()
        if len(kept):
            result[row, kept] = torch.linalg.lstsq(root[:, kept], target[:, None]).solution.flatten()
    return result


def admm_damped(gram: Tensor, damping: float) -> Tensor:
    """H + λ D² with D² its diagonal: the ridge of ADMM, in the original coordinates."""
    return gram.double() + damping * gram.double().diagonal().diag()


def mean_damped(gram: Tensor, damping: float) -> Tensor:
    """H + λ·mean(diag H): the ridge of SparseGPT and ALPS."""
    eye = torch.eye(len(gram), dtype=torch.float64)
    return gram.double() + damping * gram.double().diagonal().mean() * eye


class EveryMask:
    """The least error of every mask of a small matrix: rows are independent, so 2^in of them a row are all."""

    def __init__(self, dense: Tensor, gram: Tensor) -> None:
        width = dense.shape[1]
        self.masks = torch.tensor(list(itertools.product((False, True), repeat=width)))
        self.errors = numpy.zeros((len(dense), len(self.masks)))
        for row, weights in enumerate(dense):
            repeated = weights.expand(len(self.masks), width)
            differences = least_squares(repeated, gram, self.masks) - repeated.double()
            self.errors[row] = ((differences @ gram.double()) * differences).sum(dim=1).numpy()

    def best(self, selection: Selection) -> float:
        """The least error any mask of the selection allows."""
        if selection.pattern.group is not None:
            return float(self.errors[:, self._follows(selection.pattern)].min(axis=1).sum())
        by_count = self._by_count()
        if selection.scope is Scope.row:
            return float(by_count[:, selection.zeros // len(by_count)].sum())
        # Over rows, the best way to share out the zeros: least[z] = min over z' of least'[z − z'] + row[z'].
        least = numpy.array([0.0])
        for row in by_count:
            total = numpy.full(len(least) + len(row) - 1, numpy.inf)
            for zeros, error in enumerate(row):
                part = total[zeros : zeros + len(least)]
                numpy.minimum(part, least + error, out=part)
            least = total
        return float(least[selection.zeros])

    def _by_count(self) -> numpy.ndarray:
        """Least error by row and number of zeros, (out, in + 1)."""
        zeros = (~self.masks).sum(dim=1).numpy()
        counts = range(self.masks.shape[1] + 1)
        return numpy.stack([self.errors[:, zeros == count].min(axis=1) for count in counts], axis=1)

    def _follows(self, pattern: Pattern) -> numpy.ndarray:
        assert pattern.group
        kept = self.masks.reshape(len(self.masks), -1, pattern.group).sum(dim=2)
        return (kept == pattern.kept).all(dim=1).numpy()


def textbook_sparsegpt(dense: Tensor, gram: Tensor, selection: Selection, damping: float) -> Tensor:
    """SparseGPT column by column in float64 with the inverse of every remaining sub-Gram computed anew.

    One block as wide as the matrix: the mask of an unstructured selection is chosen before anything moves.
    """
    weight, damped = dense.double().clone(), mean_damped(gram, damping)
    width = weight.shape[1]
    inverses = [torch.linalg.inv(damped[j:, j:]) for j in range(width)]
    costs = torch.stack([inverse[0, 0] for inverse in inverses])
    mask = torch.ones_like(weight, dtype=torch.bool)
    if selection.pattern.group is None:
        mask = selection.mask((weight.square() / costs).float())
    for j in range(width):
        group = selection.pattern.group
        if group is not None and j % group == 0:
            scores = weight[:, j : j + group].square() / costs[j : j + group]
            mask[:, j : j + group] = Selection(selection.pattern, Scope.matrix, scores.numel()).mask(scores)
        error = torch.where(mask[:, j], 0.0, weight[:, j]) / inverses[j][0, 0]
        weight[:, j:] -= error[:, None] * inverses[j][0]
    return torch.where(mask, weight, 0.0)


def sums_of_gram(gram: Tensor) -> Accumulated:
    """One domain's sums with zero mean."""
    second = gram.diagonal().clone()
    return Accumulated(gram, second, second, torch.zeros_like(second), 1, 100, {})


def solve_with(method: Method, dense: Tensor, gram: Tensor, selection: Selection) -> Solution:
    """As the engine does it: prepare the group, score, solve."""
    group = prepare(method, sums_of_gram(gram))
    return solve(method, "w", dense, scores(method, "w", dense, group), group, selection)
