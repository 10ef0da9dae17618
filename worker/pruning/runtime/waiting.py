"""Numbers that decide how a computation goes on, and what it costs to look at them.

On a CPU they are there. On a GPU the host runs ahead of its work, and to look at one is to wait until all that was
queued is done: there a decision is made where the number is.
"""

import torch
from torch import Tensor

from worker.pruning.runtime.lanes import in_a_lane, others_turn


def shows_at_once(value: Tensor) -> bool:
    """Whether looking at a number costs nothing."""
    return value.device.type == "cpu"


def either(which: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`one` where a flag says so, a bool of no dimension, else `other`."""
    if shows_at_once(which):
        return one if bool(which) else other
    return torch.where(which, one, other)


def add_scaled(total: Tensor, part: Tensor, factor: Tensor) -> None:
    """Add `part` times a number of no dimension to `total`, in place."""
    if shows_at_once(factor):
        total.add_(part, alpha=float(factor))
    else:
        total.addcmul_(part, factor.to(total.dtype))


def settled(value: Tensor) -> Tensor:
    """The value, which the host is about to look at. Where several devices are at work, the others' threads go on
    until it is there."""
    if in_a_lane() and not shows_at_once(value):
        there = torch.cuda.current_stream(value.device).record_event()
        with others_turn():
            there.synchronize()
    return value
