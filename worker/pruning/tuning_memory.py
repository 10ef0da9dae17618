"""What tuning will need of memory, a block at a time or the whole model, from shapes alone."""

from secateur.spec.method import Mode, Refine
from worker.pruning.evaluation.losses import FEWEST, LOGITS
from worker.pruning.model.graph import Block
from worker.pruning.refine.tuning import DISTILLED_COPIES, windows_of_a_step
from worker.pruning.subject import FLOAT, Subject, input_widths, keeps_grams, width

TUNED_COPIES = 4
"""Of the weights that are tuned, in float32: themselves, their gradients, and the mean and the square of these."""


def distilling_bytes(subject: Subject, device: str) -> float:
    """Of tuning the whole model, beyond a block's: all blocks in float32; of what may change its gradients and
    their moments, a mask, and where it was; a step's inputs of every block, what it leaves in one, and its
    logits."""
    if subject.job.method.refine is not Refine.model:
        return 0.0
    held = 0
    for block in subject.graph.blocks:
        weights = sum(matrix.weights for matrix in subject.pruned(block))
        held += FLOAT * sum(subject.checkpoint.tensors[name].numbers for name in block.tensors)
        held += ((TUNED_COPIES - 1) * FLOAT + 1 + FLOAT * (len(subject.job.lineage) > 1)) * weights
    lengths = {domain.calibration.sequence_length for domain in subject.job.domains}
    kept = max(_kept_for_gradients(subject, block, each) for block in subject.graph.blocks for each in lengths)
    tokens = max(windows_of_a_step(each) * each for each in lengths)
    inputs = tokens * width(subject.graph) * len(subject.graph.blocks)
    vocabulary = subject.graph.model.get_output_embeddings().weight.shape[0]
    logits = max(LOGITS[device], DISTILLED_COPIES * FEWEST * vocabulary)
    return float(held + FLOAT * (kept + inputs + logits))


def tuned_blocks_bytes(subject: Subject) -> float:
    """All blocks as stored, before and after the whole model is tuned."""
    if subject.job.method.refine is not Refine.model:
        return 0.0
    return 2.0 * sum(
        subject.checkpoint.tensors[name].bytes for block in subject.graph.blocks for name in block.tensors
    )


def tuning_bytes(subject: Subject, block: Block, solver: int) -> int:
    """Beyond a solver's: what may change once more in float32, with its gradients and both of their moments, in a
    mask and as it will be stored; and what one step's windows leave in the block for their gradients. solver: its
    bytes."""
    if not tunes_blocks(subject) or not (pruned := subject.pruned(block)):
        return 0
    weights = sum(matrix.weights for matrix in pruned)
    stored = sum(subject.checkpoint.tensors[name].bytes for name in {matrix.tensor for matrix in pruned})
    held = TUNED_COPIES * FLOAT * weights + weights + stored + _anchor_bytes(subject, block)
    lengths = (domain.calibration.sequence_length for domain in subject.job.domains)
    activations = max(_kept_for_gradients(subject, block, length) for length in lengths)
    return max(held - solver, 0) + FLOAT * activations


def _anchor_bytes(subject: Subject, block: Block) -> int:
    """What tuning is held back by: the solved weights, and the Grams of the domains before."""
    if len(subject.job.lineage) < 2 or subject.job.method.mode is not Mode.accumulated:
        return 0
    pruned = subject.pruned(block)
    grams = sum(side**2 for side in input_widths(list(pruned))) * keeps_grams(subject, block)
    return FLOAT * (sum(matrix.weights for matrix in pruned) + grams)


def _kept_for_gradients(subject: Subject, block: Block, length: int) -> int:
    """Numbers: each layer's inputs and outputs and what is between them, and attention's probabilities. Of the
    experts, as many as a token goes to."""
    config = subject.graph.config.get_text_config()
    chosen = int(getattr(config, "num_experts_per_tok", 0) or 0)
    sides = [
        matrix.rows + 2 * matrix.columns
        for matrix in block.matrices
        if matrix.expert is None or not chosen or matrix.expert.index < chosen
    ]
    heads = int(getattr(config, "num_attention_heads", 1))
    return windows_of_a_step(length) * length * (sum(sides) + 8 * width(subject.graph) + 2 * heads * length)


def tunes_blocks(subject: Subject) -> bool:
    return subject.job.method.refine is Refine.block
