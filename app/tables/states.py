"""The one table of a job's states and transitions, and of the causes that end it."""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final


class State(StrEnum):
    """Coarse life of a job; `Phase` says what a running one is doing."""

    queued = "queued"
    running = "running"
    pausing = "pausing"
    paused = "paused"
    cancelling = "cancelling"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


TERMINAL: Final = frozenset({State.succeeded, State.failed, State.cancelled})
LEASED: Final = frozenset({State.running, State.pausing, State.cancelling})
"""States in which a worker holds the job."""

TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.queued: frozenset({State.running, State.paused, State.cancelled, State.failed}),
    State.running: frozenset(
        {State.queued, State.pausing, State.cancelling, State.cancelled, State.succeeded, State.failed}
    ),
    State.pausing: frozenset(
        {State.paused, State.queued, State.running, State.cancelling, State.succeeded, State.failed}
    ),
    State.paused: frozenset({State.queued, State.cancelled}),
    State.cancelling: frozenset({State.cancelled, State.succeeded, State.failed}),
    State.succeeded: frozenset(),
    State.failed: frozenset(),
    State.cancelled: frozenset(),
}


class Cause(StrEnum):
    """Who must act on a failure."""

    user = "user"
    system = "system"


@dataclass(frozen=True)
class Budget:
    """How often the service tries again by itself after one class of ends; attempts with progress are free."""

    counter: str
    """Column of the job that counts the attempts which cost."""
    setting: str
    """Setting that says how many of them end the job."""


class Retry(Enum):
    """Classes of ends of an attempt; each has its own budget, so that none eats another's."""

    never = None
    """Trying again would end the same way."""
    loss = Budget("lost_attempts", "max_attempts")
    """The infrastructure broke."""
    memory = Budget("memory_attempts", "max_memory_attempts")
    """It will hardly fit the next time; a larger worker may take it, or a quieter hour."""
    preemption = Budget("preemptions", "max_preemptions")
    """Not the job's: a planned stop, or a GPU that is gone; bounded because a job that never gets a block's time
    never ends, and because a job may be what makes a GPU fail."""


@dataclass(frozen=True)
class Ending:
    """Policy of one way for an attempt to end."""

    cause: Cause
    retry: Retry
    message: str
    at_once: bool = False
    """The next attempt need not wait: nothing was wrong with the job, or the lease's time has passed already."""
    field: str | None = None
    """JSON pointer to what the job's owner can change about it."""


class Reason(StrEnum):
    """How an attempt or a job ended when it did not succeed."""

    invalid_input = "invalid_input"
    engine_failed = "engine_failed"
    engine_killed = "engine_killed"
    engine_stalled = "engine_stalled"
    out_of_memory = "out_of_memory"
    """Of the machine's memory or its GPU's, which nobody else had taken."""
    device_shared = "device_shared"
    """The GPU's memory was not the worker's alone."""
    device_unavailable = "device_unavailable"
    """The GPU, its driver, or the way to it does not work."""
    other_device = "other_device"
    """The job is to go on only on a device like the one it was begun on (`resume_on`)."""
    disk_full = "disk_full"
    """The worker's own disk; a store that is full is `store_failed`."""
    store_failed = "store_failed"
    inputs_changed = "inputs_changed"
    worker_lost = "worker_lost"
    worker_stopped = "worker_stopped"
    max_pending = "max_pending"
    max_runtime = "max_runtime"
    gate_failed = "gate_failed"
    """It was computed to its end and is published; only its numbers are not what was asked for."""


ENDINGS: Final[dict[Reason, Ending]] = {
    Reason.invalid_input: Ending(Cause.user, Retry.never, "The job's input cannot be used."),
    Reason.inputs_changed: Ending(
        Cause.system, Retry.never, "The job's inputs are not those its checkpoint was made from."
    ),
    Reason.engine_failed: Ending(Cause.system, Retry.loss, "The engine stopped with an error."),
    Reason.engine_killed: Ending(Cause.system, Retry.loss, "The engine was killed by a signal."),
    Reason.engine_stalled: Ending(Cause.system, Retry.loss, "The engine made no progress and was killed."),
    Reason.out_of_memory: Ending(Cause.system, Retry.memory, "The engine ran out of memory."),
    Reason.device_shared: Ending(
        Cause.system, Retry.preemption, "Another process holds memory of the worker's GPU.", at_once=True
    ),
    Reason.device_unavailable: Ending(
        Cause.system, Retry.preemption, "The worker's GPU could not be used.", at_once=True
    ),
    Reason.other_device: Ending(
        Cause.system,
        Retry.preemption,
        "The job was begun on another device, and goes on only on one like that.",
        at_once=True,
    ),
    Reason.disk_full: Ending(Cause.system, Retry.loss, "The worker's disk is full."),
    Reason.store_failed: Ending(Cause.system, Retry.loss, "The object store could not be read or written."),
    Reason.worker_lost: Ending(Cause.system, Retry.loss, "The worker stopped renewing its lease.", at_once=True),
    Reason.worker_stopped: Ending(Cause.system, Retry.preemption, "The worker was asked to stop.", at_once=True),
    Reason.max_pending: Ending(
        Cause.user, Retry.never, "The job waited longer than limits.max_pending.", field="/limits/max_pending"
    ),
    Reason.max_runtime: Ending(
        Cause.user, Retry.never, "The job ran longer than limits.max_runtime.", field="/limits/max_runtime"
    ),
    Reason.gate_failed: Ending(Cause.user, Retry.never, "The result misses the job's gate.", field="/gate"),
}
OF_THE_DEVICE: Final = frozenset({Reason.device_shared, Reason.device_unavailable})
LOSSES: Final = OF_THE_DEVICE | {
    reason for reason, end in ENDINGS.items() if end.retry in (Retry.loss, Retry.memory)
}
"""Reasons that may lie in the worker: the next one may do better."""


def may_become(old: State, new: State) -> bool:
    """Whether the transition is in the table."""
    return new in TRANSITIONS[old]
