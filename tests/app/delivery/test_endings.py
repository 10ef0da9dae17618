"""What becomes of a job when an attempt ends."""

from dataclasses import replace

import pytest

from app.delivery.endings import TOTAL_BOUND, History, decide
from app.settings import Settings
from app.tables.jobs import Job
from app.tables.states import ENDINGS, Cause, Reason, Retry, State

FIRST = History(progressed=False, counted=0, total=1, budget=3)
LAST = History(progressed=False, counted=2, total=3, budget=3)
AHEAD = History(progressed=True, counted=2, total=3, budget=3)
REPEATED = replace(FIRST, repeated=True)
TOO_OFTEN = History(progressed=True, counted=0, total=TOTAL_BOUND * 3, budget=3)


@pytest.mark.parametrize(
    ("state", "reason", "history", "expected"),
    [
        (State.running, Reason.worker_lost, FIRST, (State.queued, True)),
        (State.running, Reason.worker_lost, LAST, (State.failed, True)),
        (State.running, Reason.worker_lost, AHEAD, (State.queued, False)),
        (State.running, Reason.worker_lost, TOO_OFTEN, (State.failed, False)),
        (State.running, Reason.engine_failed, FIRST, (State.queued, True)),
        (State.running, Reason.engine_failed, REPEATED, (State.failed, True)),
        (State.pausing, Reason.engine_failed, REPEATED, (State.failed, True)),
        (State.cancelling, Reason.engine_failed, REPEATED, (State.cancelled, False)),
        (State.running, Reason.out_of_memory, LAST, (State.failed, True)),
        (State.running, Reason.worker_stopped, FIRST, (State.queued, True)),
        (State.running, Reason.worker_stopped, LAST, (State.failed, True)),
        (State.running, Reason.worker_stopped, AHEAD, (State.queued, False)),
        (State.running, Reason.invalid_input, FIRST, (State.failed, False)),
        (State.running, Reason.max_runtime, AHEAD, (State.failed, False)),
        (State.cancelling, Reason.worker_lost, LAST, (State.cancelled, False)),
        (State.cancelling, Reason.invalid_input, FIRST, (State.cancelled, False)),
        (State.pausing, Reason.worker_lost, FIRST, (State.paused, True)),
        (State.pausing, Reason.worker_lost, LAST, (State.failed, True)),
        (State.pausing, Reason.worker_stopped, AHEAD, (State.paused, False)),
        (State.pausing, Reason.invalid_input, FIRST, (State.failed, False)),
    ],
)
def test_the_policy_of_endings(
    state: State, reason: Reason, history: History, expected: tuple[State, bool]
) -> None:
    assert decide(state, reason, history) == expected


def test_every_reason_has_a_policy_and_every_budget_a_column_and_a_setting(settings: Settings) -> None:
    assert set(ENDINGS) == set(Reason)
    for retry in Retry:
        if retry.value is not None:
            assert retry.value.counter in Job.__table__.columns
            assert getattr(settings, retry.value.setting) >= 1
    assert settings.max_memory_attempts < settings.max_attempts < settings.max_preemptions
    assert all(ending.retry is Retry.never for ending in ENDINGS.values() if ending.cause is Cause.user)
