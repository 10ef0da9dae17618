"""What a job will need, from shapes alone: memory, disk and time. Rough figures; each says how it is made."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from secateur.spec.job import Precision
from secateur.spec.method import Method
from secateur.spec.records.plan import Estimate, Estimates
from secateur.spec.sparsity import Allocation
from worker.pruning.allocation.survey import COPIES as SURVEYED_COPIES
from worker.pruning.cost import planned_work, survey_tokens
from worker.pruning.evaluation.losses import FEWEST, LOGITS, forward_dtype
from worker.pruning.methods.output_weighting import WIDEST
from worker.pruning.model.block_runner import BATCH_TOKENS
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block, ModelGraph, PrunableWeight
from worker.pruning.request import PruningJob
from worker.pruning.runtime.numerics import pick_device
from worker.pruning.runtime.progress import Kind
from worker.pruning.targets.budget import WeightTarget, follows_dense, weighs_outputs

FLOAT = 4
PROBE_SIDE = 768
PROBE_SECONDS = 0.1
SOLVER_COPIES = 8
"""Matrices of a weight's shape that a solver holds at once: weight, scores, mask, and ADMM's iterates."""
UNCOMMITTED = 3
"""Blocks whose files for the artifact alone are still on the worker's disk: two on their way, one at work."""
FACTOR_COPIES = 4
"""Matrices of a Gram's shape while one is factorised: itself, normalised, its factor, its inverse."""
HOST_PARTS: Final = ("process", "hidden_states", "read_ahead")
"""Of the memory, what is not on the GPU."""
EVALUATED_COPIES = 3
"""Of logits, while their losses are computed: as they come, in float32, as logarithms of probabilities."""
PREFIX_COPIES = 4
"""Of a Gram's shape, where a target is behind the dense prefix: how the gap goes with the inputs, in the windows
solved on, summed, and held out, and the gap itself there."""
OPTION_COPIES = 4
"""What `auto` holds beside these. Of a weight's shape: one whole solution while another is made. Of a Gram's: the
factors of the default and of the best so far, two matrices each."""


@dataclass(frozen=True)
class Subject:
    """What is estimated."""

    job: PruningJob
    graph: ModelGraph
    checkpoint: Checkpoint
    shares: dict[str, WeightTarget]

    def pruned(self, block: Block) -> dict[PrunableWeight, Method]:
        """The block's matrices that no override skips, with the method of each."""
        shares = (self.shares[matrix.name] for matrix in block.matrices)
        return {each.matrix: self.job.method.named(each.method) for each in shares if each.zeros is not None}


def estimates(subject: Subject) -> Estimates:
    """What the job needs, on a machine and a device like this one."""
    needed, device = memory(subject), pick_device(subject.job.device)
    host = needed.total if device.type == "cpu" else sum(needed.parts[name] for name in HOST_PARTS)
    return Estimates(
        memory_bytes=needed,
        disk_bytes=disk(subject),
        seconds=seconds(subject),
        host_bytes=host,
        device_bytes=needed.total - host,
        device=device.type,
        operations=float(sum(_work(subject).values())),
    )


def memory(subject: Subject) -> Estimate:
    """Peak of the engine's memory (on a GPU: hidden states and texts are the host's, the rest the device's)."""
    job, graph = subject.job, subject.graph
    stored = (sum(subject.checkpoint.tensors[name].bytes for name in block.tensors) for block in graph.blocks)
    parts = {
        "process": float(_resident_bytes()),
        "outer_weights": float(FLOAT * sum(subject.checkpoint.tensors[name].numbers for name in graph.outer)),
        "block_weights": float(max(_block_bytes(subject, block) for block in graph.blocks)),
        "read_ahead": float(max(stored)),
        "statistics": float(max(_statistics_bytes(subject, block) for block in graph.blocks)),
        "state": float(max(_state_bytes(subject, block, len(job.lineage)) for block in graph.blocks)),
        "sensitivities": float(_sensitivity_bytes(subject)),
        "solver": float(max(_solver_bytes(subject, block) for block in graph.blocks)),
        "hidden_states": float(min(_hidden_bytes(subject), job.hidden_bytes)),
        "activations": float(_activation_bytes(subject)),
    }
    how = (
        "Sum of what is held at once, from shapes: weights outside the blocks and the largest block in float32 "
        "(and once as stored), the next block as stored, Gram matrices of that block by the widths of its inputs "
        "(and what compares them with those behind the dense prefix, where weights are solved towards it), "
        "its state as it will be stored (with every domain's own Gram matrices where they are kept), its scores "
        "in float32 where they are kept, a solver's and a factorisation's copies of the largest matrix, hidden "
        "states of all windows up to hidden_bytes, one batch's activations and logits, and what the planning "
        "process holds. Evaluation counts max_windows also where texts are shorter."
    )
    return Estimate(total=sum(parts.values()), parts=parts, how=how)


def disk(subject: Subject) -> Estimate:
    """Peak of a worker's disk for the job, without its text."""
    stages = len(subject.job.domains)
    model = float(sum(info.bytes for info in subject.checkpoint.tensors.values()))
    first = subject.job.first_stage
    states = [_whole_state_bytes(subject, first + stage + 1) for stage in range(stages)]
    parts = {"model": model, "stages_weights": stages * model, "stages_state": float(sum(states))}
    if first:
        parts["base"] = model + _whole_state_bytes(subject, first)
    parts["sensitivities"] = float(min(UNCOMMITTED, len(subject.graph.blocks)) * _sensitivity_bytes(subject))
    parts["hidden_states"] = float(
        max(_hidden_bytes(subject) - subject.job.hidden_bytes, _survey_bytes(subject), 0)
    )
    how = (
        f"The model as stored, and for each of {stages} stages its weights (as large as the model) and its state: "
        f"per input the triangle of its Gram matrix in {subject.job.output.state_precision} where a solver needs "
        "it (and as many whole matrices where weights are solved towards the dense prefix), four float32 vectors "
        "and, where each domain's own statistics are kept, a triangle in float16 and a vector for every domain of "
        "the lineage so far; triangles of outputs where these are weighed; per weight a float32 where a reading "
        "of COPAL sums over tokens. A job that continues another has that one's beside it. "
        f"Then, where scores are kept, {UNCOMMITTED} blocks' in float32; hidden states beyond hidden_bytes, or "
        "the inputs of all blocks that a survey keeps."
    )
    return Estimate(total=sum(parts.values()), parts=parts, how=how)


def seconds(subject: Subject) -> Estimate:
    """Time of the job on a machine like this one."""
    job, work = subject.job, _work(subject)
    device = pick_device(job.device)
    dtype = forward_dtype(device, job.numerics)
    careful = probe(device, torch.float32)
    fast = careful if dtype == "float32" else probe(device, torch.bfloat16)
    rates = {Kind.forward: fast, Kind.evaluate: fast, Kind.solve: careful}
    parts = {kind.value: work[kind] / rates[kind] for kind in Kind}
    how = (
        "Operations counted by the engine's own progress meter, divided by the rate of a matrix product measured "
        f"just now on {device.type} with {torch.get_num_threads()} threads: {fast / 1e9:.0f} GFLOP/s for forward "
        f"passes, {careful / 1e9:.0f} GFLOP/s for solving. Reading, writing and attention are left out; another "
        "machine has other rates; a running job's eta_at is better."
    )
    return Estimate(total=sum(parts.values()), parts=parts, how=how)


def _work(subject: Subject) -> dict[Kind, float]:
    """Operations of each kind."""
    job, graph = subject.job, subject.graph
    vocabulary = graph.model.get_output_embeddings().weight.shape[0]
    return planned_work(job, graph, subject.shares, vocabulary, evaluation_tokens(job))


def probe(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a matrix product."""
    one = torch.ones((PROBE_SIDE, PROBE_SIDE), device=device, dtype=dtype)
    _finish(one @ one)
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < PROBE_SECONDS or not count:
        _finish(one @ one)
        count += 1
    return 2.0 * PROBE_SIDE**3 * count / passed


def input_widths(matrices: list[PrunableWeight]) -> list[int]:
    """Widths of the different inputs of a block's matrices, one for each group.

    Which matrices read the same tensor is known only once the block runs. Taken here: of one module's (or
    expert's) matrices of equal width, two of the same shape read one input (gate and up), others two (query, key
    and value; output).
    """
    shapes: dict[tuple[int | None, str, int], list[int]] = {}
    for matrix in matrices:
        expert = matrix.expert.index if matrix.expert else None
        place = (expert, matrix.module.rpartition(".")[0], matrix.columns)
        shapes.setdefault(place, []).append(matrix.rows)
    widths: list[int] = []
    for (_, _, columns), rows in shapes.items():
        alone = len(rows) == 1 or (len(rows) == 2 and rows[0] == rows[1])
        widths += [columns] * (1 if alone else 2)
    return widths


def width(graph: ModelGraph) -> int:
    """Numbers in one token's hidden state."""
    return int(graph.config.get_text_config().hidden_size)


def evaluation_tokens(job: PruningJob) -> int:
    """Of all the lineage's test texts, at the most."""
    return len(job.evaluated) * job.evaluation.max_windows * job.evaluation.sequence_length


def _hidden_bytes(subject: Subject) -> int:
    """Hidden states of the windows that pass through the blocks together."""
    calibration = max(domain.calibration.tokens for domain in subject.job.domains)
    streams = 1 + follows_dense(subject.job.method, subject.shares)
    return FLOAT * width(subject.graph) * max(streams * calibration, evaluation_tokens(subject.job))


def _survey_bytes(subject: Subject) -> int:
    """The inputs of every block, which a backward pass needs, and what it finds for weighed outputs, on disk."""
    weighs = weighs_outputs(subject.job.method, subject.shares)
    if subject.job.sparsity.allocation is not Allocation.error and not weighs:
        return 0
    found = FLOAT * sum(_gradient_numbers(subject, block) for block in subject.graph.blocks)
    calibration = max(domain.calibration.tokens for domain in subject.job.domains)
    tokens = survey_tokens(calibration)
    return found + FLOAT * width(subject.graph) * tokens * len(subject.graph.blocks)


def _block_bytes(subject: Subject, block: Block) -> int:
    """In float32 inside its module, and as stored."""
    stored = (subject.checkpoint.tensors[name] for name in block.tensors)
    return sum(FLOAT * each.numbers + each.bytes for each in stored)


def _sensitivity_bytes(subject: Subject) -> int:
    """Of the largest block's scores where they are kept, none of which may fit float16."""
    if not subject.job.output.keep_sensitivities:
        return 0
    blocks = map(subject.pruned, subject.graph.blocks)
    return FLOAT * max(sum(matrix.weights for matrix in block) for block in blocks)


def _keeps_grams(subject: Subject, block: Block) -> bool:
    return any(method.updates_weights for method in subject.pruned(block).values())


def _importance_numbers(subject: Subject, block: Block) -> int:
    """Weights of the block whose scores come from sums of their own size."""
    return sum(matrix.weights for matrix, method in subject.pruned(block).items() if method.importance)


def _compared_widths(subject: Subject, block: Block) -> list[int]:
    """Of the inputs that are compared with those behind the dense prefix. Which ones is known once the block runs.
    Taken here: all but experts', and but the widest, which a Llama's down reads."""
    following = [matrix for matrix, method in subject.pruned(block).items() if method.follows_dense]
    widths = sorted(input_widths([matrix for matrix in following if matrix.expert is None]))
    return widths if any(matrix.expert is not None for matrix in following) else widths[:-1]


def _cross_numbers(subject: Subject, block: Block) -> int:
    """How these inputs' gaps go with them."""
    return sum(side**2 for side in _compared_widths(subject, block))


def _gradient_numbers(subject: Subject, block: Block) -> int:
    """How the loss's gradients by outputs go together, of the block's matrices that weigh them."""
    weighing = (matrix for matrix, method in subject.pruned(block).items() if method.weighs_outputs)
    return sum(matrix.rows * min(matrix.rows, WIDEST) for matrix in weighing)


def _statistics_bytes(subject: Subject, block: Block) -> int:
    """Grams of all groups: this domain's, its held-out windows', the sum, and the one from the stage before; of a
    reading's importance the same without the second, and what a batch adds."""
    domains = subject.job.domains
    kept = _keeps_grams(subject, block)
    held_out = any(domain.calibration.held_out > 0 for domain in domains)
    grams = 1 + held_out + kept + (kept and len(subject.job.lineage) > 1)
    cross = (PREFIX_COPIES + (len(subject.job.lineage) > 1)) * _cross_numbers(subject, block)
    pruned = subject.pruned(block)
    widths = input_widths(list(pruned))
    # Errors under the own Grams of earlier domains unpack one at a time, when nothing is factorised.
    solving = FACTOR_COPIES + OPTION_COPIES * any(method.chooses for method in pruned.values())
    copies = solving if kept else int(subject.job.output.keep_domain_statistics)
    factor = copies * max(widths, default=0) ** 2
    importance = (3 + (len(subject.job.lineage) > 1)) * _importance_numbers(subject, block)
    gradients = 2 * _gradient_numbers(subject, block)
    return FLOAT * (grams * sum(side**2 for side in widths) + cross + factor + importance + gradients)


def _solver_bytes(subject: Subject, block: Block) -> int:
    """For the largest matrix."""
    pruned = subject.pruned(block).items()
    copies = (matrix.weights * (SOLVER_COPIES + OPTION_COPIES * method.chooses) for matrix, method in pruned)
    return FLOAT * max(copies, default=0)


def _whole_state_bytes(subject: Subject, stages: int) -> float:
    return float(sum(_state_bytes(subject, block, stages) for block in subject.graph.blocks))


def _state_bytes(subject: Subject, block: Block, stages: int) -> int:
    """After so many stages of the lineage, each of whose domains may have kept its own Grams."""
    output = subject.job.output
    size = {Precision.float16: 2, Precision.float32: FLOAT}[output.state_precision]
    kept = _keeps_grams(subject, block) * size
    cross = size * _cross_numbers(subject, block)
    if cross:
        cross += FLOAT * sum(_compared_widths(subject, block))
    gradients = size * _gradient_numbers(subject, block) // 2
    own = stages if output.keep_domain_statistics else 0
    moments = sum(
        (kept + own * 2) * side * (side + 1) // 2 + (4 + own) * FLOAT * side
        for side in input_widths(list(subject.pruned(block)))
    )
    return moments + cross + gradients + FLOAT * _importance_numbers(subject, block)


def _activation_bytes(subject: Subject) -> int:
    """A batch inside a block (its widest layers and one head's attention scores) or at the output head."""
    job, graph = subject.job, subject.graph
    lengths = [*(domain.calibration.sequence_length for domain in job.domains), job.evaluation.sequence_length]
    longest = max(lengths)
    tokens = max(BATCH_TOKENS, longest)
    widest = max(sum({matrix.columns, matrix.rows}) for block in graph.blocks for matrix in block.matrices)
    heads = int(getattr(graph.config.get_text_config(), "num_attention_heads", 1))
    inside = tokens * (4 * width(graph) + 2 * widest) + heads * tokens * longest
    return FLOAT * max(inside, _head_numbers(subject, min(lengths), tokens))


def _head_numbers(subject: Subject, shortest: int, tokens: int) -> int:
    """At the output head: copies of a piece's logits, and its weight in bfloat16 (half a number each).

    shortest: tokens of a window, of which a batch's piece has one of each at the least. tokens: of a batch.
    """
    vocabulary = subject.graph.model.get_output_embeddings().weight.shape[0]
    fewest, all_of_them = max(FEWEST, BATCH_TOKENS // shortest) * vocabulary, tokens * vocabulary
    held = 0
    if evaluation_tokens(subject.job):
        held = EVALUATED_COPIES * min(max(LOGITS, fewest), all_of_them)
    if subject.job.sparsity.allocation is Allocation.error or weighs_outputs(subject.job.method, subject.shares):
        held = max(held, min(max(LOGITS, SURVEYED_COPIES * fewest), SURVEYED_COPIES * all_of_them))
    return held + (vocabulary * width(subject.graph) // 2 if held else 0)


def _resident_bytes() -> int:
    """Of this process; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text("ascii").split()
    except OSError:
        return 0
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE")


def _finish(result: torch.Tensor) -> None:
    """Wait until a device has computed it."""
    if result.device.type == "cuda":
        torch.cuda.synchronize(result.device)
