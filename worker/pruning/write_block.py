"""Writing a pruned block, its records and its state while the next block is computed: nothing here computes."""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from torch import Tensor

from secateur.spec.records.history import MatrixRecord, SensitivitySummary
from secateur.spec.records.pipe import BlockResult
from worker.pruning.block_state import BlockState
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.report.records import compare_masks, with_contents
from worker.pruning.state.atomic import write_tensors
from worker.pruning.state.context import StageContext, Tensors
from worker.pruning.state.digests import Contents, mask_bits


@dataclass(frozen=True)
class PrunedMatrix:
    """One matrix, in its place among the block's tensors. contents: what it shows there, once that is known.
    scores: on the CPU, None where they are not kept."""

    record: MatrixRecord
    contents: "Future[Contents]"
    summaries: list[SensitivitySummary]
    scores: Tensor | None


def write_block(
    context: StageContext,
    block: Block,
    tensors: Tensors,
    pruned: Mapping[PrunableWeight, PrunedMatrix],
    state: BlockState,
) -> BlockResult:
    """Write the block's files, and return what is to be told of it. tensors: as pruned, on the CPU.

    What the matrices' tensors show must be known, or be found out before this on the same thread.
    """
    records = _records(context, block, pruned)
    folder, index = context.folder, block.index
    files = [("weights", folder.shard(index)), ("state", folder.state(index))]
    write_tensors(folder.path(folder.state(index)), *state.content(records))
    write_tensors(folder.path(folder.shard(index)), tensors)
    if scores := {matrix.name: each.scores for matrix, each in pruned.items() if each.scores is not None}:
        files.append(("sensitivity", folder.sensitivity(index)))
        write_tensors(folder.path(folder.sensitivity(index)), scores)
    return BlockResult(
        stage=context.stage,
        block=index,
        files=files,
        records=records,
        sensitivity=[summary for each in pruned.values() for summary in each.summaries],
    )


def _records(
    context: StageContext, block: Block, pruned: Mapping[PrunableWeight, PrunedMatrix]
) -> list[MatrixRecord]:
    """With what the matrices' tensors show, and what has changed since the stage before."""
    path = context.shard_before(block)
    before = None if path is None else Checkpoint.of_file(path)
    records = []
    for matrix, each in pruned.items():
        contents = each.contents.result()
        record = with_contents(each.record, context.targets[matrix.name], contents)
        if before is not None:
            # One at a time, so that no second block is in memory.
            then = mask_bits(before.read_slice(matrix.tensor, matrix.slice))
            record = compare_masks(record, contents.mask, then)
        records.append(record)
    return records
