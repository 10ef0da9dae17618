"""Where a stage's sparsity goes: survey the domain, add what earlier domains' surveys found, and share it out.

uniform: every free matrix the same rate. owl: blocks with more outliers keep more. error: the rates at which the
loss should rise least, and outputs compared by what they mean for the loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from secateur.spec.method import Method, Scope
from secateur.spec.records.history import Phase
from secateur.spec.sparsity import Allocation
from worker.pruning.allocation.curves import share_out
from worker.pruning.allocation.owl import block_rates
from worker.pruning.allocation.result import Survey
from worker.pruning.allocation.survey import survey
from worker.pruning.continuation import factors
from worker.pruning.model.graph import Block
from worker.pruning.request import PruningJob
from worker.pruning.state.context import StageContext
from worker.pruning.state.file import read_document
from worker.pruning.targets.budget import WeightTarget, assign

OUTPUTS, CURVE, OUTLIERS = "loss/outputs", "loss/curve", "outliers"


def allocate(context: StageContext) -> StageContext:
    """The stage with its rates shared out; also when it is resumed: the same text gives the same rates again.

    A sequential job keeps those of its first stage: zeros that were written stay zeros, so another share for any
    matrix would only make the others miss the total. context: with the targets of a uniform allocation. Raises
    IllConditioned.
    """
    job, previous = context.job, context.previous
    shares_out = _surveys(job, context.targets)
    if not shares_out and context.output_grams is None:
        return context
    earlier = [previous.path(previous.state(block.index)) for block in context.blocks] if previous else []
    if context.prunes_the_pruned or not context.learns:
        if not shares_out:
            return context
        found = read_survey(earlier)
    else:
        by = factors(job, context.stage, read_document(earlier[0]) if earlier else None)
        context.tracker.move(Phase.surveying, context.stage, context.name)
        found = survey(context).times(by.weight)
        if context.output_grams is not None:
            context.output_grams.weight = by.weight
        if not shares_out:
            return context
        if context.accumulates and earlier:
            found = found.plus(read_survey(earlier).times(by.keeps))
    blocks = {matrix.name: block.index for block in context.blocks for matrix in block.matrices}
    rates = _wanted_rates(job.sparsity.allocation, found, context.targets, blocks)
    targets = assign(context.runner.graph.matrices, job.sparsity, rates)
    return replace(context, targets=targets, survey=found)


def _wanted_rates(
    allocation: Allocation, survey: Survey, shares: Mapping[str, WeightTarget], blocks: Mapping[str, int]
) -> dict[str, float] | None:
    """The sparsity each free matrix should have, by name; None when the survey could look into none of them.

    allocation: owl or error. shares: of a uniform allocation, some of them free, which says how much the free ones
    lose together. blocks: the block of each matrix.
    """
    free = [share for share in shares.values() if not share.fixed and share.zeros is not None]
    weights = {share.matrix.name: share.matrix.weights for share in free}
    zeros = sum(share.zeros or 0 for share in free)
    if allocation is Allocation.owl:
        rates = block_rates(survey.outliers, zeros / sum(weights.values()))
        return {name: rates[blocks[name]] for name in weights}
    known = {name: survey.curves[name] for name in weights if name in survey.curves}
    if not known:
        return None
    surveyed = {name: weights[name] for name in known}
    whole = sum(weights.values())
    found = share_out(known, surveyed, zeros * sum(surveyed.values()) / whole)
    return found | {name: zeros / whole for name in weights if name not in found}


def comparison_group(job: PruningJob, method: Method, shares: dict[str, WeightTarget]) -> Scope:
    """Among which weights of an unstructured matrix scores compete: under `error` in the whole matrix, because the
    survey says what each row is worth to the loss; else as the method has it."""
    weighed = job.sparsity.allocation is Allocation.error and _surveys(job, shares)
    return Scope.matrix if weighed else method.comparison_group


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
    found = Survey()
    for path in paths:
        with safe_open(path, framework="pt") as reader:
            for key in reader.keys():  # noqa: SIM118 - not a mapping
                name, _, part = key.partition("/")
                into = {OUTPUTS: found.outputs, CURVE: found.curves}.get(part)
                if into is not None:
                    into[name] = reader.get_tensor(key)
                elif part == OUTLIERS:
                    found.outliers[int(name)] = reader.get_tensor(key)
    return found
