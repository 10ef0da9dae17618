"""What a job will need of memory, from shapes alone. Rough figures; each says how it is made."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from secateur.spec.job import Numerics
from secateur.spec.method import Method, MethodName, Mode, Refine
from secateur.spec.output import Precision
from secateur.spec.records.plan import HOST_PARTS, Estimate
from worker.pruning.allocation.survey import COPIES as SURVEYED_COPIES
from worker.pruning.calibration.portions import portions
from worker.pruning.evaluation.losses import FEWEST, LOGITS
from worker.pruning.methods.output_weighting import WIDEST
from worker.pruning.model.block_runner import BATCH_TOKENS
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.model.positions import longest_input
from worker.pruning.request import PruningJob
from worker.pruning.runtime.attention import SCORES
from worker.pruning.runtime.hidden_states import host_room
from worker.pruning.runtime.transfers import page_locked
from worker.pruning.subject import FLOAT, Subject, input_widths, keeps_grams, width
from worker.pruning.survey_memory import surveyed_bytes, surveys_loss
from worker.pruning.targets.budget import follows_dense
from worker.pruning.tuning_memory import distilling_bytes, tuned_blocks_bytes, tunes_blocks, tuning_bytes

HALF = 2
SOLVER_COPIES = 13
"""Matrices of a weight's shape that a solver holds at once: weight, scores, mask, and the iterates and temporaries
of ADMM, the most being held where it chooses a mask."""
SEARCH_COPIES = 3
"""As many more that ALPS holds: what its search may come back to."""
GPU_CONTEXT: Final = 2**30
"""That a process takes of a GPU before it computes, for its context and the libraries' workspaces."""
GPU_RUNTIME: Final = 2**31
"""That a process with a GPU takes of the host for it: the driver's libraries, and page-locked buffers."""
BUFFERS = 4
"""Batches of one stream of hidden states between a GPU and memory: two each way."""
FACTOR_COPIES = 4
"""Matrices of a Gram's shape while one is factorised: itself, normalised, its factor, its inverse."""
EVALUATED_COPIES = 3
"""Of logits, while their losses are computed: as they come, in float32, as logarithms of probabilities."""
PREFIX_COPIES = 4
"""Of a Gram's shape, where a target is behind the dense prefix: how the gap goes with the inputs, in the windows
solved on, summed, and held out, and the gap itself there."""
HARNESS_BYTES: Final = 3 * 2**27
"""Of memory that the libraries of lm-eval take."""
REQUEST_BYTES: Final = 64
"""Of each token that a model reads for one task: all its requests are there at once, a kilobyte each beside their
tokens as Python's integers."""
STAYING: Final = ("process", "outer_weights", "gpu_context", "gpu_runtime")
"""What is held beside a whole model, too."""
OPTION_COPIES = 4
"""What `auto` holds beside these. Of a weight's shape: one whole solution while another is made. Of a Gram's: the
factors of the default and of the best so far, two matrices each."""


def device_bytes(subject: Subject) -> float:
    """What the job needs of a GPU, beside the hidden states that it may have there."""
    return sum(needed for name, needed in memory(subject, "cuda").parts.items() if name not in HOST_PARTS)


def memory(subject: Subject, device: str = "cpu") -> Estimate:
    """Peak of the engine's memory, with a GPU that of both (`HOST_PARTS` are the host's). device: cpu or cuda."""
    job, graph = subject.job, subject.graph
    taken = page_locked if device == "cuda" else int
    stored = max(
        sum(taken(subject.checkpoint.tensors[name].bytes) for name in block.tensors) for block in graph.blocks
    )
    state = max(_held_state_bytes(subject, block) for block in graph.blocks)
    scores = sensitivity_bytes(subject)
    parts = {
        "process": float(_resident_bytes()),
        "outer_weights": float(FLOAT * sum(subject.checkpoint.tensors[name].numbers for name in graph.outer)),
        "block_weights": float(max(_block_bytes(subject, block, device) for block in graph.blocks)),
        "read_ahead": 2.0 * stored,
        "statistics": float(max(_statistics_bytes(subject, block) for block in graph.blocks)),
        "state": float(state),
        "sensitivities": float(scores),
        "being_written": float(stored + state + scores),
        "solver": float(max(_solver_bytes(subject, block) for block in graph.blocks)),
        "tuning": distilling_bytes(subject, device)
        or float(max(tuning_bytes(subject, block, _solver_bytes(subject, block)) for block in graph.blocks)),
        "tuned_blocks": tuned_blocks_bytes(subject),
        "hidden_states": float(min(hidden_bytes(subject), host_room(job.hidden_bytes))),
        "survey": 2.0 * surveyed_bytes(subject),
        "activations": float(_activation_bytes(subject, device)),
    }
    if device == "cuda":
        parts |= {"gpu_context": float(GPU_CONTEXT), "gpu_runtime": float(GPU_RUNTIME)}
        parts["hidden_buffers"] = float(_buffer_bytes(subject))
    if job.tasks:
        parts |= _tasks_bytes(subject, device, parts)
    how = (
        "Sum of what is held at once, from shapes: weights outside the blocks and the largest block in float32 "
        "(on a GPU its matrices in bfloat16), this block and the next one as stored, "
        "Gram matrices of that block by the widths of its inputs "
        "(of experts, of as many as are measured at once) "
        "(and what compares them with those behind the dense prefix, where weights are solved towards it), "
        "its state as it will be stored (with every domain's own Gram matrices where they are kept), its scores "
        "in float32 where they are kept, the block before with its state and scores while it is written, a "
        "solver's and a factorisation's copies of the largest matrix, what tuning a block or the model holds "
        "beyond these (of the model, all blocks as stored before and after), "
        "hidden states of all windows up to hidden_bytes (on a "
        "GPU, those that do not fit there), a survey's last hidden states and their gradients, one batch's "
        "activations and logits, and what the planning process holds. Evaluation counts "
        "max_windows also where texts are shorter."
    )
    if job.tasks:
        how += (
            " Tasks: what the harness and the whole model, loaded at once, take beyond all that; the dense model "
            "and the pruned one come one after the other."
        )
    return Estimate(total=sum(parts.values()), parts=parts, how=how)


def _tasks_bytes(subject: Subject, device: str, parts: dict[str, float]) -> dict[str, float]:
    """The harness's libraries and a task's requests, and by how much the whole model and its logits are more than
    what pruning holds."""
    rounds = device == "cuda" and subject.job.numerics is Numerics.fast
    numbers = sum(info.numbers for info in subject.checkpoint.tensors.values())
    vocabulary = subject.graph.model.get_output_embeddings().weight.shape[0]
    logits = EVALUATED_COPIES * FLOAT * longest_input(subject.graph) * vocabulary
    wanted = float((HALF if rounds else FLOAT) * numbers + logits)
    elsewhere = STAYING if device == "cpu" else (*STAYING, *HOST_PARTS)
    held = sum(size for name, size in parts.items() if name not in elsewhere)
    asked = REQUEST_BYTES * max(subject.tasks_tokens, default=0.0)
    return {"harness": HARNESS_BYTES + asked, "tasks": max(0.0, wanted - held)}


def evaluation_tokens(job: PruningJob) -> int:
    """Of all the lineage's test texts, at the most."""
    return len(job.evaluated) * job.evaluation.max_windows * job.evaluation.sequence_length


def hidden_bytes(subject: Subject) -> int:
    """Hidden states of the windows that pass through the blocks together."""
    calibration = max(domain.calibration.tokens for domain in subject.job.domains)
    return FLOAT * width(subject.graph) * max(_streams(subject) * calibration, evaluation_tokens(subject.job))


def _streams(subject: Subject) -> int:
    """Of hidden states that pass through the blocks together: the pruned model's, the dense one's where weights
    are solved towards it, and what a block should give where it is tuned."""
    return 1 + follows_dense(subject.job.method, subject.shares) + tunes_blocks(subject)


def _block_bytes(subject: Subject, block: Block, device: str) -> int:
    """Inside its module: in float32; on a GPU its matrices in bfloat16 where numerics are fast, and once more as
    stored if that is another dtype."""
    rounds = device == "cuda" and subject.job.numerics is Numerics.fast
    matrices = {matrix.tensor for matrix in block.matrices} if rounds else set()
    found = 0
    for name in block.tensors:
        info = subject.checkpoint.tensors[name]
        kept = HALF * info.numbers + (info.bytes if info.dtype != "BF16" else 0)
        found += kept if name in matrices else FLOAT * info.numbers
    return found


def _buffer_bytes(subject: Subject) -> int:
    """Batches of hidden states on their way to a GPU and from it, where they do not all stay there."""
    return BUFFERS * _streams(subject) * FLOAT * width(subject.graph) * _batch_tokens(subject.job)


def sensitivity_bytes(subject: Subject) -> int:
    """Of the largest block's scores where they are kept, none of which may fit float16."""
    if not subject.job.output.keep_sensitivities:
        return 0
    blocks = map(subject.pruned, subject.graph.blocks)
    return FLOAT * max(sum(matrix.weights for matrix in block) for block in blocks)


def _importance_numbers(subject: Subject, matrices: Iterable[PrunableWeight]) -> int:
    """Weights whose scores come from sums of their own size."""
    return sum(matrix.weights for matrix in matrices if subject.method_of(matrix).importance)


def _compared_widths(subject: Subject, block: Block) -> list[int]:
    """Of the inputs that are compared with those behind the dense prefix. Which ones is known once the block runs.
    Taken here: all but experts', and but the widest, which a Llama's down reads."""
    following = [matrix for matrix, method in subject.pruned(block).items() if method.follows_dense]
    widths = sorted(input_widths([matrix for matrix in following if matrix.expert is None]))
    return widths if any(matrix.expert is not None for matrix in following) else widths[:-1]


def _cross_numbers(subject: Subject, block: Block) -> int:
    """How these inputs' gaps go with them."""
    return sum(side**2 for side in _compared_widths(subject, block))


def gradient_numbers(subject: Subject, block: Block) -> int:
    """How the loss's gradients by outputs go together, of the block's matrices that weigh them."""
    weighing = (matrix for matrix, method in subject.pruned(block).items() if method.weighs_outputs)
    return sum(matrix.rows * min(matrix.rows, WIDEST) for matrix in weighing)


def _statistics_bytes(subject: Subject, block: Block) -> int:
    """Grams of all groups: this domain's, its held-out windows', the sum, and the one from the stage before; of a
    reading's importance the same without the second, and what a batch adds."""
    domains = subject.job.domains
    kept = keeps_grams(subject, block)
    held_out = any(domain.calibration.held_out > 0 for domain in domains)
    grams = 1 + held_out + kept + (kept and len(subject.job.lineage) > 1)
    cross = (PREFIX_COPIES + (len(subject.job.lineage) > 1)) * _cross_numbers(subject, block)
    pruned = subject.pruned(block)
    widest = max(input_widths(list(pruned)), default=0)
    # Errors under the own Grams of earlier domains unpack one at a time, when nothing is factorised.
    solving = FACTOR_COPIES + OPTION_COPIES * any(method.chooses for method in pruned.values())
    copies = solving if kept else int(subject.job.output.keep_domain_statistics)
    stages = 3 + (len(subject.job.lineage) > 1)
    at_once = max(
        (
            grams * sum(side**2 for side in input_widths(own)) + stages * _importance_numbers(subject, own)
            for own in portions_of(subject, block)
        ),
        default=0,
    )
    gradients = 2 * gradient_numbers(subject, block)
    return FLOAT * (at_once + cross + copies * widest**2 + gradients)


def portions_of(subject: Subject, block: Block) -> list[list[PrunableWeight]]:
    """The block's pruned matrices by what is measured and solved at once."""
    groups: dict[object, list[PrunableWeight]] = {}
    for matrix in subject.pruned(block):
        place = matrix.expert and (matrix.module, matrix.expert.index, matrix.expert.activated)
        groups.setdefault(place or matrix.name, []).append(matrix)
    return [[matrix for group in portion for matrix in group] for portion in portions(list(groups.values()))]


def _solver_bytes(subject: Subject, block: Block) -> int:
    """For the largest matrix."""
    pruned = subject.pruned(block).items()
    copies = (matrix.weights * _solver_copies(method) for matrix, method in pruned)
    return FLOAT * max(copies, default=0)


def _solver_copies(method: Method) -> int:
    searches = method.chooses or method.name is MethodName.alps
    return SOLVER_COPIES + SEARCH_COPIES * searches + OPTION_COPIES * method.chooses


def state_bytes(subject: Subject, stages: int) -> float:
    """With what tuning the whole model has changed, in bfloat16, which only its last commits write."""
    tuned = subject.job.method.refine is Refine.model and subject.job.method.mode is Mode.accumulated
    changes = 2 * sum(matrix.weights for block in subject.graph.blocks for matrix in subject.pruned(block))
    blocks = sum(block_state_bytes(subject, block, stages) for block in subject.graph.blocks)
    return float(blocks + tuned * changes)


def _held_state_bytes(subject: Subject, block: Block) -> int:
    """Of the block's state while it waits to be written: where there are several portions, in a scratch file."""
    if len(portions_of(subject, block)) > 1:
        return 0
    return block_state_bytes(subject, block, len(subject.job.lineage))


def block_state_bytes(subject: Subject, block: Block, stages: int) -> int:
    """After so many stages of the lineage, each of whose domains may have kept its own Grams."""
    output = subject.job.output
    size = {Precision.float16: 2, Precision.float32: FLOAT}[output.state_precision]
    kept = keeps_grams(subject, block) * size
    cross = size * _cross_numbers(subject, block)
    if cross:
        cross += FLOAT * sum(_compared_widths(subject, block))
    gradients = size * gradient_numbers(subject, block) // 2
    own = stages if output.keep_domain_statistics else 0
    moments = sum(
        (kept + own * 2) * side * (side + 1) // 2 + (4 + own) * FLOAT * side
        for side in input_widths(list(subject.pruned(block)))
    )
    return moments + cross + gradients + FLOAT * _importance_numbers(subject, subject.pruned(block))


def _lengths(job: PruningJob) -> list[int]:
    """Tokens of its windows, of every kind."""
    return [*(domain.calibration.sequence_length for domain in job.domains), job.evaluation.sequence_length]


def _batch_tokens(job: PruningJob) -> int:
    """Of the largest batch."""
    return max(BATCH_TOKENS, *_lengths(job))


def _activation_bytes(subject: Subject, device: str) -> int:
    """A batch inside a block (its widest layers, and attention's scores, which a GPU has piece by piece) or at the
    output head."""
    job, graph = subject.job, subject.graph
    lengths = _lengths(job)
    longest, tokens = max(lengths), _batch_tokens(job)
    widest = max(sum({matrix.columns, matrix.rows}) for block in graph.blocks for matrix in block.matrices)
    heads = int(getattr(graph.config.get_text_config(), "num_attention_heads", 1))
    scores = heads * tokens * longest
    if device == "cuda":
        scores = min(scores, SCORES)
    inside = tokens * (4 * width(graph) + 2 * widest) + scores
    return FLOAT * max(inside, _head_numbers(subject, min(lengths), tokens, LOGITS[device]))


def _head_numbers(subject: Subject, shortest: int, tokens: int, logits: int) -> int:
    """At the output head: copies of a piece's logits, and its weight in bfloat16 (half a number each).

    shortest: tokens of a window, of which a batch's piece has one of each at the least. tokens: of a batch.
    logits: of a piece, where that is no fewer.
    """
    vocabulary = subject.graph.model.get_output_embeddings().weight.shape[0]
    fewest, all_of_them = max(FEWEST, BATCH_TOKENS // shortest) * vocabulary, tokens * vocabulary
    held = 0
    if evaluation_tokens(subject.job):
        held = EVALUATED_COPIES * min(max(logits, fewest), all_of_them)
    if surveys_loss(subject):
        held = max(held, min(max(logits, SURVEYED_COPIES * fewest), SURVEYED_COPIES * all_of_them))
    return held + (vocabulary * width(subject.graph) // 2 if held else 0)


def _resident_bytes() -> int:
    """Of this process; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text("ascii").split()
    except OSError:
        return 0
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE")
