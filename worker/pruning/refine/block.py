"""Tuning one block: what stays of its matrices, together, towards what its dense weights give for the same inputs
(after EBFT, arXiv 2402.12419; the stream that the targets come from is ours)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.pruning.cost import pass_work, tuning_work
from worker.pruning.evaluation.losses import precision
from worker.pruning.model.graph import Block
from worker.pruning.model.loading import load_block
from worker.pruning.refine.earlier import Earlier, earlier
from worker.pruning.refine.schedule import Schedule
from worker.pruning.refine.tuning import own_copies, tune
from worker.pruning.refine.written import Tensors, as_written, free_parameters
from worker.pruning.runtime import memory
from worker.pruning.runtime.hidden_states import HiddenStates
from worker.pruning.runtime.progress import Kind
from worker.pruning.state.context import StageContext


@dataclass(frozen=True)
class Tuned:
    """Loss on the windows held out, of the block as written: solved, and tuned. after: None where that gave no
    numbers. earlier: what the tuned weights lose on the domains before, None where there are none."""

    before: float
    after: float | None
    earlier: float | None = None

    @property
    def kept(self) -> bool:
        """Whether the tuned weights are."""
        return self.after is not None and self.after + (self.earlier or 0.0) < self.before

    @property
    def notes(self) -> dict[str, Any]:
        """For the records."""
        found = {"before": self.before, "after": self.after, "kept": self.kept}
        return found if self.earlier is None else found | {"earlier": self.earlier}


@dataclass(frozen=True)
class _Tuning:
    """One block of one stage. wanted: its outputs as they should be, one tensor a batch of hidden states. scale:
    the mean square of what the block adds to its inputs there, over the windows solved on."""

    context: StageContext
    block: Block
    wanted: HiddenStates
    scale: float
    schedule: Schedule
    earlier: Earlier

    def loss(self, states: Tensor, wanted: Tensor) -> Tensor:
        """Mean squared error over the scale, a scalar. Both (windows, length, width)."""
        device = self.context.device
        with precision(device, self.context.dtype):
            found = self.context.runner.run(self.block, states.to(device))
        return (found.float() - wanted.to(device).float()).square().mean() / self.scale

    def add_gradients(self, windows: list[int]) -> None:
        """Of windows that are solved on, by number, and of what holds the weights back."""
        hidden, wanted = (self.schedule.gather(states, windows) for states in (self.context.hidden, self.wanted))
        with torch.enable_grad():
            self.loss(hidden, wanted).backward()  # type: ignore[no-untyped-call]
        self.earlier.pull()

    def held_out(self) -> float:
        """Mean over the windows that nothing is tuned on."""
        first, count, total = len(self.context.solved_on), 0, 0.0
        for index, state in enumerate(self.context.held_out, first):
            with memory.reusing():
                loss = self.loss(state, self.wanted[index])
            total, count = total + float(loss) * len(state), count + len(state)
        return total / count


def tune_block(context: StageContext, block: Block, tensors: Tensors) -> Tuned:
    """Tune what stays of the block's matrices, and put it into `tensors` where that is better on the windows held
    out.

    What is loaded afterwards is neither. tensors: as solved and cast.
    """
    assert context.wanted is not None  # noqa: S101 - for the type checker
    scale = _want(context, block, context.wanted)
    if not (scale > 0 and math.isfinite(scale)):
        return Tuned(0.0, None)
    # In float32, whatever the forward passes multiply in: steps are smaller than what that can tell apart.
    load_block(block, tensors, context.runner.graph.names.state, context.device)
    schedule = Schedule(context, str(block.index))
    tuning = _Tuning(context, block, context.wanted, scale, schedule, earlier(context, block))
    before = tuning.held_out()
    tunables = own_copies(block.module, free_parameters(context, block, tensors))
    work = tuning_work(context.job.method, block, context.domain.calibration.tokens) / schedule.steps
    with memory.reusing():
        every = list(tunables.values())
        for _ in tune(every, schedule.epochs(), schedule.steps, schedule.settings, tuning.add_gradients):
            context.tracker.advance(Kind.forward, work)
    found = as_written(context, block, tensors, tunables)
    del tunables, every
    memory.trim()
    if found is None:
        return Tuned(before, None)
    load_block(block, tensors | found, context.runner.graph.names.state, context.device)
    after = tuning.held_out()
    tuned = Tuned(before, after if math.isfinite(after) else None, tuning.earlier.lost)
    if tuned.kept:
        tensors.update(found)
    return tuned


def _want(context: StageContext, block: Block, store: HiddenStates) -> float:
    """Put what the block should give into `store`, and return how much it changes its inputs: the mean square over
    the windows solved on.

    Where the dense stream is passed, it is behind this block already.
    """
    context.runner.load_block(block, context.source.read(block.tensors))
    store.clear()
    total, count = 0.0, 0
    for index, state in enumerate(context.hidden):
        with memory.reusing():
            wanted = context.forward(block, state)
            if context.dense is not None:
                wanted = (wanted + context.dense[index]) / 2
            if index < len(context.solved_on):
                total += float((wanted.float() - state.float()).square().mean(dim=(1, 2)).sum())
                count += len(state)
        store.append(wanted)
        context.tracker.advance(Kind.forward, pass_work(block, state))
    return total / count
