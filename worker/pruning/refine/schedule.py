"""Which calibration windows each step of tuning looks at."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.spec.method import Refinement
from worker.pruning.model.block_runner import batches
from worker.pruning.refine.tuning import shuffled, windows_of_a_step
from worker.pruning.runtime.hidden_states import HiddenStates
from worker.pruning.state.context import StageContext


@dataclass(frozen=True)
class Schedule:
    """Of one stage. place: what is tuned, which has an order of its own."""

    context: StageContext
    place: str

    @property
    def settings(self) -> Refinement:
        found = self.context.job.method.refinement
        assert found is not None  # noqa: S101 - for the type checker
        return found

    def epochs(self) -> Iterator[list[list[int]]]:
        """The windows of every step, the same whenever the job runs."""
        context = self.context
        number, seed = context.job.first_stage + context.domain_stage, context.domain.calibration.seed
        for epoch in range(self.settings.epochs):
            yield shuffled(self._count, self._step, f"{seed}/{number}/{self.place}/{epoch}")

    @property
    def steps(self) -> int:
        return self.settings.epochs * -(-self._count // self._step)

    def gather(self, states: HiddenStates, windows: list[int]) -> Tensor:
        """What a store of batches has of these windows, which are solved on, (windows, length, width)."""
        size = len(range(*batches(*self.context.windows.solved_on.shape)[0].indices(self._count)))
        found = (states.window(number // size, number % size) for number in windows)
        return torch.cat([each.to(self.context.device) for each in found])

    @property
    def _count(self) -> int:
        return len(self.context.windows.solved_on)

    @property
    def _step(self) -> int:
        return windows_of_a_step(self.context.windows.solved_on.shape[1])
