"""The one table of a job's states and transitions, and of the causes that end it."""

from dataclasses import dataclass
from enum import StrEnum
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


class Phase(StrEnum):
    """What an attempt is doing."""

    staging = "staging"
    evaluating = "evaluating"
    pruning = "pruning"
    publishing = "publishing"


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


class Retry(StrEnum):
    """Whether the service tries again by itself after such an end of an attempt."""

    never = "never"
    counted = "counted"
    """Yes, and it costs one of the job's attempts."""
    free = "free"
    """Yes, and it costs nothing: a planned stop."""


@dataclass(frozen=True)
class Ending:
    """Policy of one way for an attempt to end."""

    cause: Cause
    retry: Retry
    message: str


class Reason(StrEnum):
    """How an attempt or a job ended when it did not succeed."""

    invalid_input = "invalid_input"
    engine_failed = "engine_failed"
    engine_killed = "engine_killed"
    out_of_memory = "out_of_memory"
    store_failed = "store_failed"
    worker_lost = "worker_lost"
    worker_stopped = "worker_stopped"
    max_pending = "max_pending"
    max_runtime = "max_runtime"


ENDINGS: Final[dict[Reason, Ending]] = {
    Reason.invalid_input: Ending(Cause.user, Retry.never, "The job's input cannot be used."),
    Reason.engine_failed: Ending(Cause.system, Retry.counted, "The engine stopped with an error."),
    Reason.engine_killed: Ending(Cause.system, Retry.counted, "The engine was killed by a signal."),
    Reason.out_of_memory: Ending(Cause.system, Retry.counted, "The engine ran out of memory."),
    Reason.store_failed: Ending(Cause.system, Retry.counted, "The object store could not be read or written."),
    Reason.worker_lost: Ending(Cause.system, Retry.counted, "The worker stopped renewing its lease."),
    Reason.worker_stopped: Ending(Cause.system, Retry.free, "The worker was asked to stop."),
    Reason.max_pending: Ending(Cause.system, Retry.never, "The job waited longer than its limit."),
    Reason.max_runtime: Ending(Cause.user, Retry.never, "The job ran longer than its limit."),
}


def may_become(old: State, new: State) -> bool:
    """Whether the transition is in the table."""
    return new in TRANSITIONS[old]
