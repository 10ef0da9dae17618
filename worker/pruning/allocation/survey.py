"""One pass forward and one backward over the dense model, block by block: what each matrix means for the loss.

Forward, the inputs of every block are kept. Backward, each block is run again with gradients, from the last to the
first, handing the gradient of its inputs to the block before it; so no more than one block is ever loaded. The
parameters get no gradients, only the outputs of the matrices are looked at.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from secateur.spec.sparsity import Allocation
from worker.pruning.allocation.curves import loss_curve, loss_scores
from worker.pruning.allocation.owl import outliers
from worker.pruning.allocation.result import Survey
from worker.pruning.calibration.hooks import dense_weight, find_groups, measure
from worker.pruning.errors import IllConditioned
from worker.pruning.evaluation.losses import pieces
from worker.pruning.methods.damping import cholesky, with_more_damping
from worker.pruning.methods.wanda import input_norms, wanda_scores
from worker.pruning.model.block_runner import BlockRunner, batches, unload
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.runtime import memory
from worker.pruning.runtime.activations import ActivationCache
from worker.pruning.runtime.numerics import plain_attention
from worker.pruning.state.moments import Measured

COPIES = 4
"""Tensors as large as the logits that a loss with its gradient holds at once."""
DAMPING = 0.1
"""Ridge of the Gram's inverse, in coordinates where every input has norm one."""


@dataclass
class Surveyor:
    """Surveys one domain's text on the dense model."""

    runner: BlockRunner
    source: Checkpoint
    matrices: Mapping[int, tuple[PrunableWeight, ...]]
    """By block: those worth looking at."""
    adapts: Callable[[PrunableWeight], bool]
    """Whether the weights of a matrix that stay will be solved for anew."""
    store: Callable[[], ActivationCache]
    advance: Callable[[Block, int, int], None]
    """Told the block, the tokens that passed it and how many passes' work that was."""
    note: Callable[[str, dict[str, Any]], None]
    """Told what the record of the job must not keep silent about."""
    context: int = 1
    """Tokens of a window whose prediction is not looked at: its prefix and the first one of its text."""

    def survey(self, allocation: Allocation, windows: Tensor, tokens: int) -> Survey:
        """windows: calibration windows of one domain, (windows, length), of which the first ones with so many
        tokens are looked at. Raises IllConditioned."""
        windows = windows[: max(1, tokens // windows.shape[1])]
        with self.store() as inputs:
            if allocation is Allocation.owl:
                return self._outliers(windows, inputs)
            gradients = self._loss_gradients(windows, self._forward(windows, inputs))
            return self._backward(inputs, gradients)

    def _parts(self, windows: Tensor) -> list[Tensor]:
        return [windows[part] for part in batches(*windows.shape)]

    def _load(self, block: Block, sample: Tensor) -> list[list[PrunableWeight]]:
        """Load a block and find its groups. sample: its inputs in one window."""
        self.runner.load_block(block, self.source.read(block.tensors))
        return find_groups(block, self.matrices[block.index], lambda: self.runner.forward(block, sample))

    def _outliers(self, windows: Tensor, hidden: ActivationCache) -> Survey:
        for part in self._parts(windows):
            hidden.append(self.runner.enter(part))
        shares: dict[int, Tensor] = {}
        for block in self.runner.graph.blocks:
            groups = self._load(block, hidden[0][:1].to(self.runner.device))

            def run(block: Block = block) -> None:
                for index, state in enumerate(hidden):
                    with memory.reusing():
                        hidden[index] = self.runner.forward(block, state.to(self.runner.device))
                    self.advance(block, state.shape[0] * state.shape[1], 1)

            none = {group[0].name: 0 for group in groups}
            measured = measure(block, groups, run, self.runner.device, gram_tokens=none)
            if groups:
                shares[block.index] = _outlier_share(block, groups, measured)
            unload(block.module)
        return Survey(outliers=shares)

    def _forward(self, windows: Tensor, inputs: ActivationCache) -> list[Tensor]:
        """Put every block's inputs into `inputs`, block by block; return the last block's outputs."""
        states = [self.runner.enter(part).cpu() for part in self._parts(windows)]
        for block in self.runner.graph.blocks:
            self.runner.load_block(block, self.source.read(block.tensors))
            for index, state in enumerate(states):
                inputs.append(state)
                with memory.reusing():
                    states[index] = self.runner.forward(block, state.to(self.runner.device)).cpu()
                self.advance(block, state.shape[0] * state.shape[1], 1)
            unload(block.module)
        return states

    def _loss_gradients(self, windows: Tensor, states: list[Tensor]) -> list[Tensor]:
        """∂(Σ losses of the predicted tokens)/∂(last block's outputs), a tensor a batch."""
        found = []
        with self.runner.head() as head:
            for ids, state in zip(self._parts(windows), states, strict=True):
                ids, hidden = ids.to(self.runner.device), state.to(self.runner.device)
                gradient = torch.zeros_like(hidden)
                for piece in pieces(ids, self.runner.vocabulary, COPIES, self.context):
                    given = hidden[:, piece].clone().requires_grad_()
                    with memory.reusing(), torch.enable_grad():
                        logits = head(ids[:, piece], given).float()
                        targets = ids[:, piece.start + 1 : piece.stop + 1].flatten()
                        functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum").backward()  # type: ignore[no-untyped-call]
                    assert given.grad is not None  # noqa: S101 - for the type checker
                    gradient[:, piece] = given.grad
                found.append(gradient.cpu())
        return found

    def _backward(self, inputs: ActivationCache, gradients: list[Tensor]) -> Survey:
        survey = Survey()
        for block in reversed(self.runner.graph.blocks):
            first = block.index * len(gradients)
            groups = self._load(block, inputs[first][:1].to(self.runner.device))
            squares: dict[str, Tensor] = {}

            def run(block: Block = block, first: int = first) -> None:
                for index, gradient in enumerate(gradients):
                    state = inputs[first + index].to(self.runner.device, copy=True).requires_grad_()
                    with memory.reusing(), plain_attention(self.runner.device):
                        with torch.enable_grad():
                            output = self.runner.forward(block, state)
                        output.backward(gradient.to(output))  # type: ignore[no-untyped-call]
                    assert state.grad is not None  # noqa: S101 - for the type checker
                    gradients[index] = state.grad.cpu()
                    self.advance(block, state.shape[0] * state.shape[1], 2)

            grams = {group[0].name: 0 for group in groups if not any(map(self.adapts, group))}
            hear = partial(_add_squares, squares)
            measured = measure(block, groups, run, self.runner.device, hear=hear, gram_tokens=grams)
            tokens = sum(gradient.shape[0] * gradient.shape[1] for gradient in gradients)
            for group in groups:
                self._conclude(block, group, measured[group[0].name], squares, tokens, survey)
                memory.trim()
            unload(block.module)
        return survey

    def _curvature(self, name: str, gram: Tensor) -> Tensor:
        try:
            found, notes = curvature(gram)
        except IllConditioned as error:
            raise IllConditioned(f"{name}: {error}") from error
        if notes:
            self.note("raised the damping of a Gram", {"matrix": name, "survey": notes})
        return found

    def _conclude(
        self,
        block: Block,
        group: list[PrunableWeight],
        measured: Measured,
        squares: dict[str, Tensor],
        tokens: int,
        survey: Survey,
    ) -> None:
        """Add a group's matrices to the survey. An expert's losses are per token of the text, not of its own;
        one that no token reached is left out."""
        if measured.tokens == 0:
            return
        if not measured.finite:
            raise IllConditioned(f"{group[0].name}: its inputs are not finite")
        adapting = any(map(self.adapts, group))
        curved = self._curvature(group[0].name, measured.gram) if adapting else measured.second
        for matrix in group:
            across = curved if self.adapts(matrix) else measured.second
            outputs = (squares[matrix.name] / measured.tokens).float()
            scores = loss_scores(dense_weight(block, matrix).float(), outputs, across)
            if not bool(torch.isfinite(scores).all()):
                raise IllConditioned(f"{matrix.name}: the gradients of the loss are not finite")
            survey.outputs[matrix.name] = outputs.cpu()
            survey.curves[matrix.name] = loss_curve(scores) * (measured.tokens / tokens)


def curvature(gram: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """1 / [H⁻¹]_jj of the damped Gram, (in,), and what it took. gram: (in, in), float32. Raises IllConditioned."""
    norms = input_norms(gram.diagonal())
    normal = gram / norms / norms.unsqueeze(1)

    def attempt(damping: float, dtype: torch.dtype) -> Tensor | None:
        eye = torch.eye(len(norms), device=gram.device, dtype=dtype)
        root = cholesky(normal.to(dtype) + damping * eye)
        if root is None:
            return None
        inverse = torch.cholesky_inverse(root).diagonal().float()
        return inverse if bool(torch.isfinite(inverse).all()) else None

    inverse, notes = with_more_damping(normal, DAMPING, attempt)
    return norms.square() / inverse, notes


def _outlier_share(block: Block, groups: list[list[PrunableWeight]], measured: dict[str, Measured]) -> Tensor:
    count = weights = 0
    for group in groups:
        for matrix in group:
            count += outliers(wanda_scores(dense_weight(block, matrix), measured[group[0].name].second))
            weights += matrix.weights
    return torch.tensor(count / weights, dtype=torch.float64)


def _add_squares(squares: dict[str, Tensor], matrix: PrunableWeight, output: Tensor, first: int) -> None:
    """When the gradient comes back, add Σ_t (∂loss/∂z)² of the matrix's outputs z, (out,), float64.

    output: holds them in its last dimension, from `first`.
    """
    if not output.requires_grad:
        return

    def add(gradient: Tensor) -> None:
        own = gradient.reshape(-1, gradient.shape[-1])[:, first : first + matrix.rows]
        square = own.float().square().sum(dim=0).double()
        squares[matrix.name] = squares.get(matrix.name, torch.zeros_like(square)) + square

    output.register_hook(add)  # type: ignore[no-untyped-call]
