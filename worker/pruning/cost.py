"""What the parts of a job cost, in floating point operations: only ratios matter, for progress and ETA."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from secateur.spec.job import Calibration
from secateur.spec.method import Method, Mode, Refine
from secateur.spec.sparsity import Allocation, Channels
from secateur.spec.tasks import HarnessTask
from worker.pruning.calibration.windows import held_out_indices
from worker.pruning.methods.auto import sampled_rows
from worker.pruning.methods.output_weighting import STEPS, WIDEST
from worker.pruning.methods.registry import SOLVERS, admm_work
from worker.pruning.model.block_runner import batches
from worker.pruning.model.graph import Block, ModelGraph, PrunableWeight
from worker.pruning.refine.tuning import windows_of_a_step
from worker.pruning.request import PruningJob
from worker.pruning.runtime.progress import Kind
from worker.pruning.targets.budget import WeightTarget, follows_dense, weighs_outputs

SELECTION = 200
"""Operations a weight that scoring, selecting and summarising cost beside any products."""
PREFIX_PRODUCTS = 7.0
"""Of a matrix with one of a Gram's shape, to find a target behind the dense prefix and to measure by it."""
WEIGHING_STEPS = STEPS + 6.0
"""Products of a matrix with a Gram on either side: the steps, and the errors before and after them."""


def token_work(block: Block) -> float:
    """One token through one block."""
    return 2.0 * block.weights


def pass_work(block: Block, state: Tensor) -> float:
    """One batch (windows, length, width) through one block."""
    return token_work(block) * math.prod(state.shape[:2])


def block_passes(job: PruningJob, shares: Mapping[str, WeightTarget], stage: int) -> int:
    """How often a stage's windows pass each block: to be measured and to go on, at once where inputs are those
    behind dense blocks; once more where the dense prefix is followed."""
    return 1 if job.behind_dense(stage) else 2 + follows_dense(job.method, shares)


def gram_work(block: Block, state: Tensor) -> float:
    """One batch's Grams, taking matrices of equal width for one group."""
    return 2.0 * sum(width**2 for width in {m.columns for m in block.matrices}) * math.prod(state.shape[:2])


def importance_work(method: Method, matrix: PrunableWeight) -> float:
    """One token's part in a matrix's importance."""
    return 2.0 * matrix.weights * SOLVERS[method.name].work(method).by_token


def solve_work(method: Method, matrix: PrunableWeight) -> float:
    """One matrix: its products with a Gram, two of them to measure the error, and a selection for each mask."""
    aiming = _aiming_products(method, matrix)
    if candidates := SOLVERS[method.name].candidates:
        whole = 2.0 * matrix.weights * matrix.columns * aiming
        return _choice_work([each.method(method) for each in candidates], matrix) + 2 * whole
    own = SOLVERS[method.name].work(method)
    steps, masks = 2.0 + own.products + aiming, own.masks
    if method.update is not None:
        searched = admm_work(method.update)
        steps += searched.products if method.searches else method.update.iterations
        masks = searched.masks if method.searches else masks
    products = matrix.weights * steps + matrix.columns**2 * own.inverses
    return 2.0 * products * matrix.columns + matrix.weights * SELECTION * masks


def _aiming_products(method: Method, matrix: PrunableWeight) -> float:
    """Of a matrix with a Gram, where it has a target or its outputs are weighed."""
    weighing = WEIGHING_STEPS * (1 + min(matrix.rows, WIDEST) / matrix.columns)
    return weighing * method.weighs_outputs + PREFIX_PRODUCTS * method.follows_dense


def _choice_work(tried: Sequence[Method], matrix: PrunableWeight) -> float:
    """Every candidate factorised and tried on a sample of rows, then the first and the winner as a whole.

    The winner is taken for one like the first, as most candidates are; a factor that several matrices share is
    counted for each.
    """
    sample = replace(matrix, rows=sampled_rows(matrix.rows))
    factors = 2.0 * matrix.columns**3 * len(tried)
    return factors + sum(solve_work(each, sample) for each in tried) + 2 * solve_work(tried[0], matrix)


def tuning_work(method: Method, block: Block, tokens: int) -> float:
    """The epochs of tuning a block: each token forward, and backward for twice that. The two passes of the windows
    held out make up for what is not tuned on them."""
    return 0.0 if method.refinement is None else 3.0 * method.refinement.epochs * tokens * token_work(block)


def distilling_work(
    job: PruningJob, graph: ModelGraph, shares: Mapping[str, WeightTarget], stage: int
) -> tuple[float, float]:
    """Tuning the whole model, or its norms: the dense model's pass, where a survey has not left what is wanted of
    it, and all steps, in which each token goes forward, forward once more on the way back, and backward, and
    through the head for both models. The passes of the windows held out are not counted."""
    method, calibration = job.method, job.domain_of(stage).calibration
    if method.refine in (Refine.none, Refine.block) or method.refinement is None:
        return 0.0, 0.0
    tokens = tuned_windows(method, calibration) * calibration.sequence_length
    blocks = sum(map(token_work, graph.blocks))
    vocabulary = graph.model.get_output_embeddings().weight.shape[0]
    # Weights that do not change need no gradients.
    step = (4.0 if method.refine is Refine.model else 3.0) * blocks + 3.0 * head_work(graph, vocabulary)
    dense = 0.0 if batches_from_survey(job, shares, stage) else tokens * blocks
    return dense, method.refinement.epochs * tokens * step


def batches_from_survey(job: PruningJob, shares: Mapping[str, WeightTarget], stage: int) -> int:
    """How many batches a stage's survey passes through the dense model as its tuning would, first of all: all that
    the whole model, or its norms, is tuned on; else none."""
    method, calibration = job.method, job.domain_of(stage).calibration
    goes_back = job.sparsity.allocation is Allocation.error or weighs_outputs(method, shares)
    if method.refine not in (Refine.norms, Refine.model) or not (goes_back and surveys(job, shares, stage)):
        return 0
    length, tuned = calibration.sequence_length, tuned_windows(method, calibration)
    surveyed = min(survey_tokens(job, calibration) // length, solved_windows(calibration))
    wanted = batches(tuned, length)
    return len(wanted) if tuned and batches(surveyed, length)[: len(wanted)] == wanted else 0


def solved_windows(calibration: Calibration) -> int:
    """Of a domain: those that are not held out."""
    return calibration.samples - len(held_out_indices(calibration.samples, calibration.held_out))


def tuning_steps(method: Method, calibration: Calibration) -> int:
    """Of one stage, with each of its blocks or with the whole model."""
    if method.refinement is None:
        return 0
    step = windows_of_a_step(calibration.sequence_length)
    return method.refinement.epochs * -(-tuned_windows(method, calibration) // step)


def tuned_windows(method: Method, calibration: Calibration) -> int:
    """Of those of a domain: all, or as many as the job says."""
    asked = None if method.refinement is None else method.refinement.windows
    return solved_windows(calibration) if asked is None else min(asked, solved_windows(calibration))


def head_work(graph: ModelGraph, vocabulary: int) -> float:
    """One token through the output head."""
    width = getattr(graph.config.get_text_config(), "hidden_size", 1024)
    return 2.0 * width * vocabulary


TASK_ROWS = 1000
"""Of a task without a `limit`, before anybody has looked at it."""
ROW_TOKENS = 400
"""Of a question with each of its choices, and of a solved one before it with all of them."""


def task_tokens(task: HarnessTask, rows: int | None = None, shots: int | None = None) -> float:
    """That one model reads for a task, roughly. rows, shots: of it, or of one of a group, once they are known."""
    asked = (task.limit or TASK_ROWS) if rows is None else min(rows, task.limit or rows)
    solved = shots if task.few_shot is None else task.few_shot
    return float(ROW_TOKENS * asked * (1 + (solved or 0)))


def task_work(graph: ModelGraph, vocabulary: int, tokens: float) -> float:
    """Tokens through the whole model."""
    return tokens * (sum(map(token_work, graph.blocks)) + head_work(graph, vocabulary))


def planned_work(
    job: PruningJob,
    graph: ModelGraph,
    shares: dict[str, WeightTarget],
    vocabulary: int,
    evaluated_tokens: int,
    tasks_tokens: Sequence[float] | None = None,
) -> dict[Kind, float]:
    """The whole job: T + 1 evaluations, T stages, and every task with two models.

    tasks_tokens: that one model reads for each, once they are known.
    """
    row = evaluated_tokens * (sum(map(token_work, graph.blocks)) + head_work(graph, vocabulary))
    stages = [stage_work(job, graph, shares, number) for number in range(len(job.stage_names))]
    tasks = 2 * sum(map(task_tokens, job.tasks) if tasks_tokens is None else tasks_tokens)
    return {
        Kind.evaluate: row * (len(stages) + 1) + task_work(graph, vocabulary, tasks),
        Kind.forward: sum(forward for forward, _ in stages),
        Kind.solve: sum(solve for _, solve in stages),
    }


def stage_tokens(job: PruningJob, stage: int) -> int:
    """Tokens of the windows that a stage passes: where a further target shares statistics, those held out."""
    calibration = job.domain_of(stage).calibration
    if job.measures(stage):
        return calibration.tokens
    return len(held_out_indices(calibration.samples, calibration.held_out)) * calibration.sequence_length


def stage_work(
    job: PruningJob, graph: ModelGraph, shares: dict[str, WeightTarget], stage: int
) -> tuple[float, float]:
    """Forwards and solving of one of the job's stages."""
    forward, solve = 0.0, 0.0
    calibration = job.domain_of(stage).calibration
    if job.sparsity.channels is Channels.permuted and not job.first_stage + stage:
        forward += survey_tokens(job, calibration) * sum(map(token_work, graph.blocks))
    for block in graph.blocks:
        one, two = block_work(job, block, shares, stage)
        forward, solve = forward + one, solve + two
    forward += sum(distilling_work(job, graph, shares, stage))
    return forward + (survey_work(job, graph, shares, calibration) if surveys(job, shares, stage) else 0.0), solve


def surveys(job: PruningJob, shares: Mapping[str, WeightTarget], stage: int) -> bool:
    """Whether a stage looks at its domain before it prunes: a sequential job keeps its first stage's rates."""
    if not job.learns(stage) or (job.method.mode is Mode.sequential and job.first_stage + stage):
        return False
    return job.sparsity.allocation is not Allocation.uniform or weighs_outputs(job.method, shares)


def survey_tokens(job: PruningJob, calibration: Calibration) -> int:
    """At how many of a domain's tokens a survey looks: whole windows from the first one on, one at the least."""
    length = calibration.sequence_length
    return min(calibration.samples, max(1, job.sparsity.survey_tokens // length)) * length


def survey_work(
    job: PruningJob, graph: ModelGraph, shares: dict[str, WeightTarget], calibration: Calibration
) -> float:
    """The passes over the dense model before a stage that shares its sparsity out."""
    passes = {Allocation.uniform: 0, Allocation.owl: 1, Allocation.error: 3}[job.sparsity.allocation]
    if weighs_outputs(job.method, shares) and job.sparsity.allocation is not Allocation.error:
        passes += 3
    return passes * survey_tokens(job, calibration) * sum(map(token_work, graph.blocks))


def block_work(job: PruningJob, block: Block, shares: dict[str, WeightTarget], stage: int) -> tuple[float, float]:
    """Forwards and solving of one block in one of the job's stages."""
    tokens = stage_tokens(job, stage)
    pruned = [shares[matrix.name] for matrix in block.matrices if shares[matrix.name].zeros is not None]
    widths = {share.matrix.columns for share in pruned}
    asked = [(job.method.named(share.method), share.matrix) for share in pruned]
    importance = sum(importance_work(method, matrix) for method, matrix in asked)
    grams = 1 + follows_dense(job.method, shares)
    tuned = bool(pruned) and job.method.refine is Refine.block
    forward = tokens * (
        (block_passes(job, shares, stage) + tuned) * token_work(block)
        + grams * 2.0 * sum(width**2 for width in widths)
        + importance
    )
    if tuned:
        forward += tuning_work(job.method, block, tokens)
    return forward, sum(solve_work(method, matrix) for method, matrix in asked)
