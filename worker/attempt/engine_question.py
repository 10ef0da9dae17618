"""What the engine is asked without a job: one request, one answer, in a child process without keys."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from secateur.spec.records.pipe import Ended, Failed, Inspection, Message, Planned
from worker.attempt.engine_process import COMMAND, EngineProcess
from worker.model_files.errors import IntakeError

Answer = TypeVar("Answer", Inspection, Planned)

LONGEST_SECONDS: Final = 600.0
"""No graph takes so long to build, and no tensor to read; a child that is silent for longer is stuck."""


def ask_engine(
    request: dict[str, Any],
    workspace: Path,
    check: Callable[[], None],
    redact: Callable[[str], str],
    answer: type[Answer],
) -> Answer:
    """The engine's message of the type `answer`.

    check: called often; raises when the work must stop. redact: takes paths out of a refusal's message.
    Raises IntakeError for a refusal (its field points into the request), RuntimeError when the engine is at fault.
    """
    engine = EngineProcess(workspace, request["threads"], COMMAND)
    said: deque[str] = deque(maxlen=20)
    try:
        engine.listen(said.append)
        engine.say(request)
        for message in _messages(engine, check):
            if isinstance(message, answer):
                return message
            if isinstance(message, Failed):
                if message.cause == "user":
                    raise IntakeError(message.code, redact(message.message), message.field)
                raise RuntimeError(f"the engine failed: {message.detail}")
        raise RuntimeError(f"the engine ended without an answer; it said: {list(said)}")
    except ValueError as error:
        raise RuntimeError(f"the engine has answered with {error}") from None
    finally:
        engine.kill()
        engine.finish(0)


def _messages(engine: EngineProcess, check: Callable[[], None]) -> Iterator[Message]:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not isinstance(message := engine.hear(0.2), Ended):
        check()
        if message is not None:
            deadline = time.monotonic() + LONGEST_SECONDS
            yield message
        if time.monotonic() > deadline:
            raise RuntimeError("the engine took too long to answer")
