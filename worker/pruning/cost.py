"""What the parts of a job cost, in floating point operations: only ratios matter, for progress and ETA."""

import math
from dataclasses import replace

from torch import Tensor

from secateur.spec.method import Admm, Alps, Auto, Copal, Method, Reading, SparseGpt
from secateur.spec.sparsity import Allocation
from worker.pruning.methods.auto import CANDIDATES, sampled_rows
from worker.pruning.model.graph import Block, ModelGraph, PrunableWeight
from worker.pruning.request import PruningJob
from worker.pruning.runtime.progress import Kind
from worker.pruning.targets.budget import WeightTarget

SELECTION = 200
"""Operations a weight that scoring, selecting and summarising cost beside any products."""
SPARSEGPT_STEPS = 2.0
"""Half a product with the Gram moves errors on; the steps from input to input are slower than their count."""
ALPS_STEPS = 40
"""Steps until the support settles, as a rule."""

SURVEY_TOKENS = (2048, 8192)
"""Fewest and most calibration tokens at which a survey looks."""


def token_work(block: Block) -> float:
    """One token through one block."""
    return 2.0 * block.weights


def pass_work(block: Block, state: Tensor) -> float:
    """One batch (windows, length, width) through one block."""
    return token_work(block) * math.prod(state.shape[:2])


def gram_work(block: Block, state: Tensor) -> float:
    """One batch's Grams, taking matrices of equal width for one group."""
    return 2.0 * sum(width**2 for width in {m.columns for m in block.matrices}) * math.prod(state.shape[:2])


def importance_work(method: Method, matrix: PrunableWeight) -> float:
    """One token's part in a matrix's importance: its response, and a product of that with the input."""
    return 4.0 * matrix.weights * (method.needs_importance and not _sums_once(method))


def solve_work(method: Method, matrix: PrunableWeight) -> float:
    """One matrix: its products with a Gram, two of them to measure the error, and a selection for each mask."""
    if isinstance(method, Auto):
        return _auto_work(method, matrix)
    steps, masks, inverses = 2.0, 1, 0.0
    if isinstance(method, SparseGpt):
        steps += SPARSEGPT_STEPS
    elif isinstance(method, Admm):
        steps, masks = steps + method.admm.iterations + method.admm.polish_steps, method.admm.mask_steps
    elif isinstance(method, Alps):
        masks = min(ALPS_STEPS, method.alps.max_steps)
        steps += masks + method.alps.polish_steps
        inverses = masks / method.alps.update_every
    if _sums_once(method):
        steps += 1
    if method.update is not None:
        steps += method.update.iterations
        if method.searches:
            steps, masks = steps + method.update.polish_steps, method.update.mask_steps
    products = matrix.weights * steps + matrix.columns**2 * inverses
    return 2.0 * products * matrix.columns + matrix.weights * SELECTION * masks


def _sums_once(method: Method) -> bool:
    """Whether the importance is made of a stage's sums, not of every token."""
    return isinstance(method, Copal) and method.reading is Reading.dataset


def _auto_work(method: Method, matrix: PrunableWeight) -> float:
    """Every candidate factorised and tried on a sample of rows, then the default and the winner as a whole.

    The winner is taken for one of ADMM's, as most candidates are; a factor that several matrices share is counted
    for each.
    """
    tried = [candidate.method(method) for candidate in CANDIDATES]
    sample = replace(matrix, rows=sampled_rows(matrix.rows))
    factors = 2.0 * matrix.columns**3 * len(tried)
    return factors + sum(solve_work(each, sample) for each in tried) + 2 * solve_work(tried[0], matrix)


def head_work(graph: ModelGraph, vocabulary: int) -> float:
    """One token through the output head."""
    width = getattr(graph.config.get_text_config(), "hidden_size", 1024)
    return 2.0 * width * vocabulary


def planned_work(
    job: PruningJob, graph: ModelGraph, shares: dict[str, WeightTarget], vocabulary: int, evaluated_tokens: int
) -> dict[Kind, float]:
    """The whole job: T + 1 evaluations, T stages."""
    row = evaluated_tokens * (sum(map(token_work, graph.blocks)) + head_work(graph, vocabulary))
    stages = [stage_work(job, graph, shares, domain.calibration.tokens) for domain in job.domains]
    return {
        Kind.evaluate: row * (len(job.domains) + 1),
        Kind.forward: sum(forward for forward, _ in stages),
        Kind.solve: sum(solve for _, solve in stages),
    }


def stage_work(
    job: PruningJob, graph: ModelGraph, shares: dict[str, WeightTarget], tokens: int
) -> tuple[float, float]:
    """Forwards and solving of one stage."""
    forward = solve = 0.0
    for block in graph.blocks:
        one, two = block_work(job, block, shares, tokens)
        forward, solve = forward + one, solve + two
    return forward + survey_work(job, graph, tokens), solve


def survey_tokens(calibration: int) -> int:
    """At how many of a domain's tokens a survey looks, from the first window on: a quarter, so that it takes about
    as long as one of the passes that prune, and of a long text no more than it learns from."""
    fewest, most = SURVEY_TOKENS
    return min(calibration, max(fewest, min(most, calibration // 4)))


def survey_work(job: PruningJob, graph: ModelGraph, tokens: int) -> float:
    """The passes over the dense model before a stage that shares its sparsity out."""
    passes = {Allocation.uniform: 0, Allocation.owl: 1, Allocation.error: 3}[job.sparsity.allocation]
    return passes * survey_tokens(tokens) * sum(map(token_work, graph.blocks))


def block_work(job: PruningJob, block: Block, shares: dict[str, WeightTarget], tokens: int) -> tuple[float, float]:
    pruned = [shares[matrix.name] for matrix in block.matrices if shares[matrix.name].zeros is not None]
    widths = {share.matrix.columns for share in pruned}
    asked = [(job.method.named(share.method), share.matrix) for share in pruned]
    importance = sum(importance_work(method, matrix) for method, matrix in asked)
    forward = tokens * (2 * token_work(block) + 2.0 * sum(width**2 for width in widths) + importance)
    return forward, sum(solve_work(method, matrix) for method, matrix in asked)
