"""What a job will need of a worker's disk, from shapes alone."""

from typing import Final

from secateur.spec.method import Refine
from secateur.spec.output import Form
from secateur.spec.records.plan import Estimate
from worker.pruning.estimate import (
    block_state_bytes,
    gradient_numbers,
    hidden_bytes,
    portions_of,
    sensitivity_bytes,
    state_bytes,
)
from worker.pruning.model.graph import Block
from worker.pruning.runtime.hidden_states import host_room
from worker.pruning.subject import FLOAT, Subject, width
from worker.pruning.survey_memory import surveyed_bytes, surveys_loss

UNCOMMITTED = 3
"""Blocks whose files for the artifact alone are still on the worker's disk: two on their way, one written."""
ROUTES: Final = 16
"""Experts that a token goes to, at the most; a number and a weight for each."""


def disk(subject: Subject) -> Estimate:
    """Peak of a worker's disk for the job, without its text."""
    domains, stages = len(subject.job.domains), len(subject.job.stage_names)
    model = float(sum(info.bytes for info in subject.checkpoint.tensors.values()))
    first = subject.job.first_stage
    states = [state_bytes(subject, first + stage + 1) for stage in range(domains)]
    parts = {"model": model, "stages_weights": stages * model, "stages_state": float(sum(states))}
    if subject.job.method.refine is Refine.model:
        parts["stages_solved"] = stages * model
    if first:
        parts["base"] = model + state_bytes(subject, first)
    parts["sensitivities"] = float(min(UNCOMMITTED, len(subject.graph.blocks)) * sensitivity_bytes(subject))
    parts["hidden_states"] = float(
        max(hidden_bytes(subject) - host_room(subject.job.hidden_bytes), _survey_bytes(subject), 0)
    )
    if subject.job.output.form is not Form.dense:
        parts["packing"] = float((1 + subject.job.output.keep_stages) * _file_bytes(subject))
    parts["experts"] = float(max(_portions_bytes(subject, block) for block in subject.graph.blocks))
    how = (
        f"The model as stored, and for each of {stages} stages its weights (as large as the model; twice, where "
        "the model is tuned as a whole) and, unless it is of a further target, its state: "
        f"per input the triangle of its Gram matrix in {subject.job.output.state_precision} where a solver needs "
        "it (and as many whole matrices where weights are solved towards the dense prefix), four float32 vectors "
        "and, where each domain's own statistics are kept, a triangle in float16 and a vector for every domain of "
        "the lineage so far; triangles of outputs where these are weighed; per weight a float32 where a reading "
        "of COPAL sums over tokens. A job that continues another has that one's beside it. "
        f"Then, where scores are kept, {UNCOMMITTED} blocks' in float32; hidden states beyond hidden_bytes, or "
        "the inputs of all blocks that a survey keeps; and where experts are measured in portions, what they were "
        "called with, and the state of two blocks, one put together and one being written. Where models are "
        "packed, the largest file on its way to the store."
    )
    return Estimate(total=sum(parts.values()), parts=parts, how=how)


def _file_bytes(subject: Subject) -> int:
    """The largest file of weights: a block's, or that of what is outside the blocks."""
    tensors = subject.checkpoint.tensors
    inside = [sum(tensors[name].bytes for name in block.tensors) for block in subject.graph.blocks]
    return max(*inside, sum(info.bytes for info in tensors.values()) - sum(inside))


def _survey_bytes(subject: Subject) -> int:
    """The inputs of every block, which a backward pass needs, and what it finds for weighed outputs, on disk."""
    if not surveys_loss(subject):
        return 0
    found = FLOAT * sum(gradient_numbers(subject, block) for block in subject.graph.blocks)
    return found + surveyed_bytes(subject) * len(subject.graph.blocks)


def _portions_bytes(subject: Subject, block: Block) -> int:
    """On disk, where a block has several portions: its state and that of the block before, which is being written,
    and what its experts were called with."""
    if len(portions_of(subject, block)) == 1:
        return 0
    tokens = max(domain.calibration.tokens for domain in subject.job.domains)
    modules = len({matrix.module for matrix in block.matrices if matrix.expert is not None})
    calls = modules * tokens * (FLOAT * width(subject.graph) + ROUTES * (8 + FLOAT))
    return calls + 2 * block_state_bytes(subject, block, len(subject.job.lineage))
