"""One stage's shares: survey the domain, add what earlier domains' surveys found, and share the sparsity out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from secateur.spec.job import Domain
from secateur.spec.method import Method, Mode, Scope
from secateur.spec.sparsity import Allocation
from worker.pruning.allocation.rates import wanted_rates
from worker.pruning.allocation.result import Survey
from worker.pruning.allocation.survey import Surveyor
from worker.pruning.calibration.windows import CalibrationWindows
from worker.pruning.continuation import factors
from worker.pruning.cost import survey_tokens
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.request import PruningJob
from worker.pruning.runtime.activations import ActivationCache
from worker.pruning.state.file import read_document
from worker.pruning.targets.budget import WeightTarget, assign

OUTPUTS, CURVE, OUTLIERS = "loss/outputs", "loss/curve", "outliers"


@dataclass(frozen=True)
class Allocated:
    """shares: by matrix. survey: of all domains so far, empty when every matrix gets the same rate."""

    shares: dict[str, WeightTarget]
    survey: Survey = field(default_factory=Survey)


def allocate(
    job: PruningJob,
    shares: dict[str, WeightTarget],
    runner: BlockRunner,
    source: Checkpoint,
    windows: CalibrationWindows,
    domain: Domain,
    earlier: Sequence[Path],
    store: Callable[[], ActivationCache],
    advance: Callable[[Block, int, int], None],
    note: Callable[[str, dict[str, Any]], None],
) -> Allocated:
    """The shares of one stage. A sequential job keeps those of its first: zeros that were written stay zeros, so
    another share for any matrix would only make the others miss the total.

    shares: of a uniform allocation. windows: the domain's; those held out are not looked at. earlier: the previous
    stage's state files, none in a lineage's first stage. Raises IllConditioned.
    """
    allocation = job.sparsity.allocation
    if not _surveys(job, shares):
        return Allocated(shares)
    if job.method.mode is Mode.sequential and earlier:
        survey = read_survey(earlier)
    else:
        worth = {
            block.index: tuple(matrix for matrix in block.matrices if shares[matrix.name].zeros is not None)
            for block in runner.graph.blocks
        }

        def adapts(matrix: PrunableWeight) -> bool:
            return job.method.named(shares[matrix.name].method).updates_weights

        # A window is cut anywhere, so that nothing before it tells of its first token of text.
        context = min(len(windows.prefix) + 1, windows.solved_on.shape[1] - 1)
        surveyor = Surveyor(runner, source, worth, adapts, store, advance, note, context)
        looked_at = survey_tokens(domain.calibration.tokens)
        before = read_document(earlier[0]) if earlier else None
        by = factors(job, job.domains.index(domain), before)
        survey = surveyor.survey(allocation, windows.solved_on, looked_at).times(by.weight)
        if job.method.mode is Mode.accumulated and earlier:
            survey = survey.plus(read_survey(earlier).times(by.keeps))
    blocks = {matrix.name: block.index for block in runner.graph.blocks for matrix in block.matrices}
    rates = wanted_rates(allocation, survey, shares, blocks)
    return Allocated(assign(runner.graph.matrices, job.sparsity, rates), survey)


def comparison_group(job: PruningJob, method: Method, shares: dict[str, WeightTarget]) -> Scope:
    """Among which weights of an unstructured matrix scores compete: under `error` in the whole matrix, because the
    survey says what each row is worth to the loss; else as the method has it."""
    weighed = job.sparsity.allocation is Allocation.error and _surveys(job, shares)
    return Scope.layer if weighed else method.comparison_group


def _surveys(job: PruningJob, shares: dict[str, WeightTarget]) -> bool:
    """Whether there are rates to share out."""
    free = any(not share.fixed and share.zeros is not None for share in shares.values())
    return job.sparsity.allocation is not Allocation.uniform and free


def stored_survey(survey: Survey, block: Block) -> dict[str, Tensor]:
    """A block's part of a survey, as tensors of its state file."""
    found = {}
    for matrix in block.matrices:
        if matrix.name in survey.curves:
            found[f"{matrix.name}/{OUTPUTS}"] = survey.outputs[matrix.name]
            found[f"{matrix.name}/{CURVE}"] = survey.curves[matrix.name]
    if block.index in survey.outliers:
        found[f"{block.index}/{OUTLIERS}"] = survey.outliers[block.index]
    return found


def read_survey(paths: Sequence[Path]) -> Survey:
    """What `stored_survey` put into these state files."""
    survey = Survey()
    for path in paths:
        with safe_open(path, framework="pt") as reader:
            for key in reader.keys():  # noqa: SIM118 - not a mapping
                name, _, part = key.partition("/")
                into = {OUTPUTS: survey.outputs, CURVE: survey.curves}.get(part)
                if into is not None:
                    into[name] = reader.get_tensor(key)
                elif part == OUTLIERS:
                    survey.outliers[int(name)] = reader.get_tensor(key)
    return survey
