"""What becomes of a job when an attempt ends."""

import pytest

from app.jobs.delivery.endings import LOST_BOUND, History, decide
from app.jobs.states import Reason, State

FIRST = History(progressed=False, counted=0, lost=1, budget=3)


@pytest.mark.parametrize(
    ("state", "reason", "history", "expected"),
    [
        (State.running, Reason.worker_lost, FIRST, (State.queued, True)),
        (State.running, Reason.worker_lost, History(False, 2, 3, 3), (State.failed, True)),
        (State.running, Reason.worker_lost, History(True, 2, 3, 3), (State.queued, False)),
        (State.running, Reason.worker_lost, History(True, 0, LOST_BOUND * 3, 3), (State.failed, False)),
        (State.running, Reason.worker_stopped, History(False, 2, 2, 3), (State.queued, False)),
        (State.running, Reason.invalid_input, FIRST, (State.failed, False)),
        (State.cancelling, Reason.worker_lost, FIRST, (State.cancelled, False)),
        (State.cancelling, Reason.invalid_input, FIRST, (State.cancelled, False)),
        (State.pausing, Reason.worker_lost, FIRST, (State.paused, True)),
        (State.pausing, Reason.worker_stopped, FIRST, (State.paused, False)),
        (State.pausing, Reason.invalid_input, FIRST, (State.failed, False)),
    ],
)
def test_the_policy_of_endings(
    state: State, reason: Reason, history: History, expected: tuple[State, bool]
) -> None:
    assert decide(state, reason, history) == expected
