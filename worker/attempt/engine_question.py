"""What the engine is asked without a job: one request, one answer, in a child process without keys."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from secateur.spec.records.pipe import Ended, Failed, Inspection, Measured, Message, Planned
from worker.attempt.engine_process import COMMAND, EngineProcess, confinement
from worker.isolation import LimitReached, Limits
from worker.isolation.question import died_of
from worker.model_files.errors import IntakeError

Answer = TypeVar("Answer", Inspection, Measured, Planned)

MODULE_BYTES: Final = 40_000
"""Of each tensor, for the module around it in a graph without weights."""
MODEL: Final = "the model"


def ask_engine(
    request: dict[str, Any],
    workspace: Path,
    limits: Limits,
    check: Callable[[], None],
    redact: Callable[[str], str],
    answer: type[Answer],
) -> Answer:
    """The engine's message of the type `answer`.

    limits: with `silent_seconds`. check: called often; raises when the work must stop. redact: takes paths out of
    a refusal's message.
    Raises IntakeError for a refusal (its field points into the request), LimitReached (an IntakeError) when the
    model took more than the limits give it, RuntimeError when the engine is at fault.
    """
    engine = EngineProcess(workspace, request["threads"], COMMAND, confinement(request, workspace, limits))
    said: deque[str] = deque(maxlen=20)
    failed: Failed | None = None
    try:
        engine.listen(said.append)
        engine.say(request)
        for message in _messages(engine, limits.silent_seconds or 0, check):
            if isinstance(message, answer):
                return message
            if isinstance(message, Failed):
                failed = message
    except TimeoutError:
        raise LimitReached("time", MODEL, limits, "/model") from None
    except ValueError as error:
        raise RuntimeError(f"the engine has answered with {error}") from None
    finally:
        engine.kill()
        code = engine.finish(0)
    if failed is not None and failed.cause == "user":
        raise IntakeError(failed.code, redact(failed.message), failed.field)
    if limit := died_of(engine, code, "memory" if failed and failed.code == "out_of_memory" else None, said):
        raise LimitReached(limit, MODEL, limits, "/model")
    detail = failed.detail if failed is not None else f"it ended with {code} and said: {list(said)}"
    raise RuntimeError(f"the engine failed: {detail}")


def _messages(engine: EngineProcess, seconds: float, check: Callable[[], None]) -> Iterator[Message]:
    """Raises TimeoutError for an engine that is silent for so long."""
    deadline = time.monotonic() + seconds
    while not isinstance(message := engine.hear(0.2), Ended):
        check()
        if message is not None:
            deadline = time.monotonic() + seconds
            yield message
        if time.monotonic() > deadline:
            raise TimeoutError
