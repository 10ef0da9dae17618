"""One pass forward and one backward over the dense model, block by block: what each matrix means for the loss.

Forward, the inputs of every block are kept. Backward, each block is run again with gradients, from the last to the
first, handing the gradient of its inputs to the block before it; so no more than one block is ever loaded. The
parameters get no gradients, only the outputs of the matrices are looked at.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from secateur.spec.sparsity import Allocation
from worker.pruning.allocation.curves import loss_curve, loss_scores
from worker.pruning.allocation.output_grams import GradientSums
from worker.pruning.allocation.owl import outliers
from worker.pruning.allocation.result import Survey
from worker.pruning.calibration.hooks import find_groups, measure
from worker.pruning.calibration.portions import portions
from worker.pruning.calibration.routed_tokens import routed_tokens
from worker.pruning.cost import batches_from_survey, pass_work, survey_tokens
from worker.pruning.errors import IllConditioned, about
from worker.pruning.evaluation.losses import pieces, precision
from worker.pruning.methods.damping import cholesky, with_more_damping
from worker.pruning.methods.wanda import input_norms, wanda_scores
from worker.pruning.model.block_runner import batches
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.model.loading import dense_weight
from worker.pruning.runtime import memory
from worker.pruning.runtime.hidden_states import HiddenStates, Room
from worker.pruning.runtime.numerics import all_finite, products_of
from worker.pruning.runtime.progress import Kind
from worker.pruning.state.context import StageContext, Tensors
from worker.pruning.state.moments import Measured

COPIES = 4
"""Tensors as large as the logits that a loss with its gradient holds at once."""
DAMPING = 0.1
"""Ridge of the Gram's inverse, in coordinates where every input has norm one."""


def survey(context: StageContext) -> Survey:
    """Of the stage's domain, looking at the first windows that are solved on. Raises IllConditioned."""
    windows = context.windows.solved_on
    windows = windows[: survey_tokens(context.job, context.domain.calibration) // windows.shape[1]]
    parts = [windows[part] for part in batches(*windows.shape)]
    with precision(context.device, context.dtype):
        if context.job.sparsity.allocation is not Allocation.owl:
            return _of_the_loss(context, parts)
        with context.hidden_states() as hidden:
            found = _outliers(context, parts, hidden)
        if context.output_grams is not None:
            _of_the_loss(context, parts)
        return found


def _of_the_loss(context: StageContext, parts: list[Tensor]) -> Survey:
    # On disk whatever its size: every block's inputs are kept, and memory must not grow with blocks.
    with HiddenStates(context.job.workspace, context.device, Room()) as inputs:
        last = _forward(context, parts, inputs)
        for state in last[: batches_from_survey(context.job, context.targets, context.stage)]:
            context.last.append(state)
        return _backward(context, inputs, _loss_gradients(context, parts, last))


def _load(context: StageContext, block: Block, tensors: Tensors, sample: Tensor) -> list[list[PrunableWeight]]:
    """Load a block and find its groups. sample: some of its inputs."""
    context.runner.load_block(block, tensors)
    return find_groups(block, context.pruned(block), lambda: context.runner.forward(block, sample))


def _outliers(context: StageContext, parts: list[Tensor], hidden: HiddenStates) -> Survey:
    for part in parts:
        hidden.append(context.runner.enter(part))
    shares: dict[int, Tensor] = {}
    for block, tensors in context.read_ahead(context.blocks):
        groups = _load(context, block, tensors, hidden.probe())
        del tensors

        def run(block: Block = block) -> None:
            for index, state in enumerate(hidden):
                with memory.reusing():
                    hidden[index] = context.runner.forward(block, state)
                context.tracker.advance(Kind.forward, pass_work(block, state))

        none = {group[0].name: 0 for group in groups}
        measured = measure(block, groups, run, context.device, gram_tokens=none)
        if groups:
            shares[block.index] = _outlier_share(block, groups, measured)
        context.runner.unload(block)
    memory.trim()
    return Survey(outliers=shares)


def _forward(context: StageContext, parts: list[Tensor], inputs: HiddenStates) -> list[Tensor]:
    """Put every block's inputs into `inputs`, block by block; return the last block's outputs."""
    states = [context.runner.enter(part) for part in parts]
    for block, tensors in context.read_ahead(context.blocks):
        context.runner.load_block(block, tensors)
        del tensors
        for index, state in enumerate(states):
            inputs.append(state)
            with memory.reusing():
                states[index] = context.runner.forward(block, state)
            context.tracker.advance(Kind.forward, pass_work(block, state))
        context.runner.unload(block)
    memory.trim()
    return states


def _loss_gradients(context: StageContext, parts: list[Tensor], states: list[Tensor]) -> list[Tensor]:
    """∂(Σ losses of the predicted tokens)/∂(last block's outputs), a tensor a batch."""
    # A window is cut anywhere, so that nothing before it tells of its first token of text.
    unpredicted = min(len(context.windows.prefix) + 1, parts[0].shape[1] - 1)
    found = []
    with context.runner.head() as head:
        for part, hidden in zip(parts, states, strict=True):
            ids = part.to(context.device)
            gradient = torch.zeros_like(hidden)
            for piece in pieces(ids, context.runner.vocabulary, COPIES, unpredicted):
                given = hidden[:, piece].clone().requires_grad_()
                with memory.reusing(), torch.enable_grad():
                    logits = head(ids[:, piece], given).float()
                    targets = ids[:, piece.start + 1 : piece.stop + 1].flatten()
                    functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum").backward()  # type: ignore[no-untyped-call]
                assert given.grad is not None  # noqa: S101 - for the type checker
                gradient[:, piece] = given.grad
            found.append(gradient)
    return found


def _backward(context: StageContext, inputs: HiddenStates, gradients: list[Tensor]) -> Survey:
    """gradients: of the last block's outputs, replaced by those of the block before as blocks are passed. What is
    found of outputs that are weighed goes to `context.output_grams`."""
    found, sums = Survey(), GradientSums()
    shares_out = context.job.sparsity.allocation is Allocation.error
    for block, tensors in context.read_ahead(context.blocks[::-1]):
        first = block.index * len(gradients)
        groups = _load(context, block, tensors, inputs.probe(first))
        del tensors
        grams = {g[0].name: 0 for g in groups if not (shares_out and any(map(context.adapts, g)))}
        squares: dict[str, Tensor] = {}

        def run(block: Block = block, first: int = first) -> None:
            own = inputs[first : first + len(gradients)]
            for index, (gradient, given) in enumerate(zip(gradients, own, strict=True)):
                state = given.clone().requires_grad_()
                with memory.reusing():
                    with torch.enable_grad():
                        output = context.runner.forward(block, state)
                    output.backward(gradient.to(output))  # type: ignore[no-untyped-call]
                assert state.grad is not None  # noqa: S101 - for the type checker
                gradients[index] = state.grad
                context.tracker.advance(Kind.forward, 2 * pass_work(block, state))

        def hear(matrix: PrunableWeight, output: Tensor, first: int, squares: dict[str, Tensor] = squares) -> None:
            _add_squares(squares, matrix, output, first)
            if context.output_grams is not None and context.method_of(matrix).weighs_outputs:
                _when_it_comes_back(matrix, output, first, partial(sums.add, matrix))

        tokens = sum(gradient.shape[0] * gradient.shape[1] for gradient in gradients)
        with routed_tokens(
            portions(groups), context.job.workspace, context.device, context.observer.check
        ) as routed:
            for number, portion in enumerate(portions(groups)):
                heard = None if number else hear
                measured = measure(
                    block,
                    portion,
                    run,
                    context.device,
                    hear=heard,
                    heard=context.pruned(block),
                    gram_tokens=grams,
                    routed=routed,
                )
                for group in portion if shares_out else ():
                    of_group = _of_group(context, block, group, measured.pop(group[0].name), squares, tokens)
                    found.outputs.update(of_group.outputs)
                    found.curves.update(of_group.curves)
        if context.output_grams is not None:
            context.output_grams.put(_finite(sums.means(tokens)))
        context.runner.unload(block)
        memory.trim()  # so that no block adds to the one before
    return found


def _of_group(
    context: StageContext,
    block: Block,
    group: list[PrunableWeight],
    measured: Measured,
    squares: dict[str, Tensor],
    tokens: int,
) -> Survey:
    """Outputs and curves of a group's matrices. An expert's losses are per token of the text, not of its own; one
    that no token reached is left out."""
    if measured.tokens == 0:
        return Survey()
    name, found = group[0].name, Survey()
    if not measured.finite:
        raise IllConditioned(f"{name}: its inputs are not finite")
    curved = measured.second
    if any(map(context.adapts, group)):
        with about(name):
            curved, notes = curvature(measured.gram)
        if notes:
            context.warn("raised the damping of a Gram", {"matrix": name, "survey": notes})
    for matrix in group:
        across = curved if context.adapts(matrix) else measured.second
        outputs = (squares[matrix.name] / measured.tokens).float()
        scores = loss_scores(dense_weight(block, matrix).float(), outputs, across)
        if not all_finite(scores):
            raise IllConditioned(f"{matrix.name}: the gradients of the loss are not finite")
        found.outputs[matrix.name] = outputs.cpu()
        found.curves[matrix.name] = loss_curve(scores) * (measured.tokens / tokens)
    return found


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

    def add(gradients: Tensor) -> None:
        square = gradients.square().sum(dim=0).double()
        squares[matrix.name] = squares.get(matrix.name, torch.zeros_like(square)) + square

    _when_it_comes_back(matrix, output, first, add)


def _finite(grams: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    for name, own in grams.items():
        if not all(map(all_finite, own)):
            raise IllConditioned(f"{name}: the gradients of the loss are not finite")
    return grams


def _when_it_comes_back(matrix: PrunableWeight, output: Tensor, first: int, add: Callable[[Tensor], None]) -> None:
    """Call `add` with the loss's gradients by the matrix's outputs, (tokens, out), float32."""
    if not output.requires_grad:
        return

    def call(gradient: Tensor) -> None:
        own = gradient.reshape(-1, gradient.shape[-1])[:, first : first + matrix.rows]
        with torch.autocast(own.device.type, enabled=False), products_of(own.dtype):
            add(own.float())

    output.register_hook(call)  # type: ignore[no-untyped-call]
