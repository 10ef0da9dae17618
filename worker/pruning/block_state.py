"""What a pruned block's state file holds."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from secateur.spec.records.history import MatrixRecord
from worker.pruning.allocation.allocate import stored_survey
from worker.pruning.allocation.output_grams import stored_output_grams
from worker.pruning.calibration.collect import Collected
from worker.pruning.calibration.domain_grams import KEY as DOMAIN_GRAMS
from worker.pruning.calibration.domain_grams import stored_domain_grams
from worker.pruning.calibration.portions import Group
from worker.pruning.channels.stage import stored_channels
from worker.pruning.continuation import FOLLOWING, MEMBERS, PREFIX, following_groups, held_statistics
from worker.pruning.continuation import KEY as HOLDS
from worker.pruning.model.graph import Block
from worker.pruning.objective import BlockGrams, weighing
from worker.pruning.report.records import read_history, stored_history
from worker.pruning.state.context import StageContext
from worker.pruning.state.file import StateContent, StateParts, read_document


class BlockState:
    """What the block's state file will hold, portion by portion. keep: see `StateParts`."""

    def __init__(self, context: StageContext, block: Block, keep: Callable[[Tensor], Tensor] | None) -> None:
        self._context, self._block = context, block
        self._parts = StateParts(context.job.output.state_precision, keep)
        self._groups: list[Group] = []
        self._domain_grams: dict[str, Any] = {}
        self._weighs = False
        self._weighed: dict[str, Any] = {}

    def add(self, collected: Collected) -> None:
        if not self._context.learns:
            return
        self._groups += collected.groups
        self._parts.add({name: each.sums for name, each in collected.inputs.items()})
        tensors, kept = stored_domain_grams(collected.domain_grams)
        self._parts.add_tensors(tensors)
        self._domain_grams |= kept

    def add_output_grams(self, output_grams: BlockGrams) -> None:
        """Of the whole block."""
        if not self._context.learns:
            return
        asked, precision = weighing(self._context, self._block), self._context.job.output.state_precision
        tensors, self._weighed = stored_output_grams(output_grams, asked, precision)
        self._parts.add_tensors(tensors)
        self._weighs = bool(tensors)

    def content(self, records: list[MatrixRecord]) -> StateContent:
        """With the stage's records, when all else was added. Computes nothing."""
        context, block, groups = self._context, self._block, self._groups
        path = context.state_before(block)
        before = None if path is None else read_document(path)
        history = [] if path is None else read_history(path)
        if not context.learns:  # nothing continues it
            self._parts.add_tensors(stored_history(history, records))
            return self._parts.content({"forward_dtype": context.dtype})
        survey = stored_survey(context.survey, block)
        surveyed = [context.targets[m.name] for m in block.matrices if m.name in context.survey.curves]
        kinds = (("survey", survey), ("domain_grams", self._domain_grams), ("output_grams", self._weighs))
        others = [kind for kind, held in kinds if held]
        following = [] if context.dense is None else following_groups(groups, context.method_of)
        orders, channels = stored_channels(context.channels, block)
        self._parts.add_tensors(orders | survey | stored_history(history, records))
        return self._parts.content(
            {
                "forward_dtype": context.dtype,
                PREFIX: list(context.windows.prefix),
                MEMBERS: {group[0].name: [matrix.name for matrix in group] for group in groups},
                **({FOLLOWING: following} if following else {}),
                HOLDS: held_statistics(context.job, context.stage, self._parts.groups, others, before, surveyed),
                **({DOMAIN_GRAMS: self._domain_grams} if self._domain_grams else {}),
                **self._weighed,
                **channels,
            }
        )
